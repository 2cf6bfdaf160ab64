"""A chat under way: what its commands change, and how it comes to its next reply."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from eft_gguf.cli import display
from eft_gguf.cli.options import filter_in_use, reopening
from eft_gguf.cli.reply import Reply, follow
from eft_gguf.cli.session import Conversation, Session
from eft_gguf.errors import EFTError

if TYPE_CHECKING:
    from eft_gguf import EFT, Blend, Sampling


@dataclass
class Talk:
    """The models, the session on disk, and how the next reply is to be made.

    examples: whether base and untuned are shown the family's.
    """

    eft: EFT
    session: Session
    blend: Blend
    sampling: Sampling
    examples: bool = True
    last: Reply | None = None
    attempt: int = 0

    @property
    def conversation(self) -> Conversation:
        return self.session.conversation

    def begin(self, blend: Blend, system: str | None) -> None:
        """Write down what the chat starts from, as far as it is new."""
        if self.conversation.models != (models := reopening(self.eft)):
            self.session.record("models", models=models)
        if system is not None:
            self.session.record("system", text=system)
        if blend != self.blend:
            self.set_blend(blend)

    def set_blend(self, blend: Blend) -> None:
        """Use these dials from now on. Raises OptionError for a trait that the family does not have."""
        blend.weights(self.eft.family.weights)
        self.blend = blend
        dials = {"knowledge": blend.knowledge, "behaviour": blend.behaviour, "traits": dict(blend.traits)}
        self.session.record("dials", dials={**dials, "filter": filter_in_use(blend)})

    def answer(self) -> Reply:
        """Reply to what was said, showing and recording each piece as it comes."""
        sampling = self.sampling
        if sampling.seed is not None:
            # /regen is to give another reply, also where the seed is fixed.
            sampling = replace(sampling, seed=(sampling.seed + self.attempt) % 2**32)

        def show(text: str) -> None:
            self.session.record("reply", text=text)
            display.write(text)

        try:
            chunks = self.eft.chat(
                self.conversation.prompt(), blend=self.blend, sampling=sampling, examples=self.examples
            )
            reply = follow(chunks, show)
        except EFTError:
            self.give_up()
            raise
        if reply.finish_reason == "interrupted" and not reply.text:
            self.give_up()
        else:
            self.session.record("end", finish_reason=reply.finish_reason, seed=reply.timings.seed)
        self.last = reply
        return reply

    def give_up(self) -> None:
        """Take a new question back: one too long, or not wanted, must not stand in the way of the next."""
        if self.conversation.unanswered and self.attempt == 0:
            self.session.record("retract")
