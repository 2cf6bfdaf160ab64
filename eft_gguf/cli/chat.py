"""`eft-gguf chat`: a conversation, with the dials at hand."""

from __future__ import annotations

import contextlib
import sys
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import click

from eft_gguf.cli import display
from eft_gguf.cli.editor import Reader, messages
from eft_gguf.cli.options import (
    REFERENCES,
    Given,
    dial_options,
    filter_in_use,
    fitting,
    model_options,
    open_models,
    reopening,
    sampling_options,
)
from eft_gguf.cli.reply import Reply, follow
from eft_gguf.cli.session import Conversation, Session
from eft_gguf.cli.slash import COMMANDS, Leave, obey
from eft_gguf.errors import EFTError

if TYPE_CHECKING:
    from eft_gguf import EFT, Blend, Sampling


@dataclass
class Talk:
    """A chat under way: the models, the session on disk, and how the next reply is to be made."""

    eft: EFT
    session: Session
    blend: Blend
    sampling: Sampling
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
        blend.weights({trait.name: trait.weight for trait in self.eft.family.tuned})
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
            reply = follow(self.eft.chat(self.conversation.prompt(), blend=self.blend, sampling=sampling), show)
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


@click.command(short_help="Talk, with the dials at hand.")
@click.option("-c", "--continue", "continued", is_flag=True, help="Reopen the last chat where it was left.")
@click.option("--system", metavar="TEXT", help="A system message before the conversation.")
@click.option("--stats", is_flag=True, help="Print figures to stderr also where it is no terminal.")
@dial_options
@sampling_options
@model_options
def chat(continued: bool, system: str | None, stats: bool, dials: Given, sampling: Given, models: Given) -> None:
    """Talk, with the dials at hand. /help within the chat lists what can be done there.

    What is said is kept on disk as it is said. Where standard input is no terminal, each line is a message.
    """
    from eft_gguf import Blend, Sampling

    asked, options = Blend(**dials), Sampling(**sampling)  # refused here, before anything is loaded
    session = Session.last() if continued else Session.new()
    kept = session.conversation
    chosen = models if models.keys() & {"family", *REFERENCES} else {**kept.models, **models}
    with contextlib.closing(session), open_models(chosen) as eft:
        before = fitting(kept.dials, eft)
        traits = {**before.traits, **asked.traits}
        talk = Talk(eft, session, before, options)
        filter = replace(before.filter, **filter_in_use(asked))
        talk.begin(replace(before, **{**dials, "traits": traits, "filter": filter}), system)
        if interactive := sys.stdin.isatty():
            display.note(welcome(talk) + "\n")
        converse(talk, messages(COMMANDS), patient=interactive, figures=stats or sys.stderr.isatty())
        if interactive and kept.messages:
            display.note("To come back to this chat: eft-gguf chat --continue")


def converse(talk: Talk, read: Reader, *, patient: bool, figures: bool) -> None:
    """Message after message to the end. A patient chat goes on after an error, a script's stops there."""
    while (line := read()) is not None:
        try:
            respond(talk, line, figures)
        except Leave:
            return
        except EFTError as error:
            if not patient:
                raise
            display.complain(error.message, error.hint)


def respond(talk: Talk, line: str, figures: bool) -> None:
    """Carry out a command, or reply to a message."""
    if not line.strip():
        return
    if line.startswith("/"):
        shown = obey(talk, line)
        if shown is not None:
            click.echo(shown, err=True)
            return
    else:
        talk.attempt = 0
        talk.session.record("user", text=line.strip())
    reply = talk.answer()
    if reply.finish_reason == "interrupted" and not reply.text:
        rest = "/regen makes it" if talk.conversation.unanswered else "the question is taken back"
        display.note(f"Stopped before the reply began: {rest}.\n")
        return
    click.echo(nl=not reply.text.endswith("\n"))
    if figures:
        display.note(display.footer(reply.timings, reply.finish_reason) + "\n")


def welcome(talk: Talk) -> str:
    """What to know at the beginning; for a chat reopened, what was said last."""
    family = talk.eft.family
    models = [("base", family.base, ""), ("untuned", family.untuned, "")]
    models += [(trait.name, trait.model, f" × {trait.weight:g}") for trait in family.tuned]
    lines = [family.name]
    lines += [f"  {name:<10}{reference.path.name}{weight}" for name, reference, weight in models]
    lines.append("/help lists the commands. Alt-Enter: new line. Ctrl-C: stop. Ctrl-D: leave.")
    said = talk.conversation.messages
    if said:
        lines.append(f"{len(said)} messages so far; the last:")
        last = said[-1:] if talk.conversation.unanswered else said[-2:]
        lines += [
            f"{'> ' if message['role'] == 'user' else ''}{display.printable(message['content'])}" for message in last
        ]
    if talk.conversation.unanswered:
        lines.append("It has no reply yet: /regen makes it.")
    return "\n".join(lines)
