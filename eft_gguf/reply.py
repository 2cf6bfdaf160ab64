"""A reply under way: what the engine's steps bring it, as text."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as Seq

from eft_gguf.blend.equation import Blend
from eft_gguf.completion import Chunk
from eft_gguf.engine.sequence import Sequence, Timings
from eft_gguf.engine.text import TextStream
from eft_gguf.engine.turn import Turn


class Reply:
    """A sequence that the engine has, and how far it was shown.

    piece: the bytes of a token id.  turn: whose it is to use the models.  ended: called once after `close`, which must
    be called whatever comes; at once, or when those who use the models are done.
    """

    def __init__(
        self,
        sequence: Sequence,
        *,
        stop: Seq[str],
        piece: Callable[[int], bytes],
        factors: Callable[[Blend], tuple[float, ...]],
        turn: Turn,
        ended: Callable[[Sequence], None],
    ) -> None:
        self._sequence = sequence
        self._stream = TextStream(stop)
        self._piece, self._factors, self._turn, self._ended = piece, factors, turn, ended
        self._shown = 0
        self._closed = False
        self.finish_reason: str | None = None

    @property
    def timings(self) -> Timings:
        """What it has cost so far."""
        return self._sequence.timings

    @property
    def started(self) -> bool:
        """Whether it has a slot, or had one: False while it waits."""
        return self._sequence.slot is not None or bool(self._sequence.generated)

    @property
    def pending(self) -> bool:
        """Whether there is more to show without a further step: tokens, or the error that ended it."""
        return self._shown < len(self._sequence.generated) or self._sequence.error is not None

    def next_chunk(self) -> Chunk:
        """The next token's chunk, or where there is none yet one without. Raises what ended the sequence."""
        sequence, alternatives = self._sequence, None
        if self._shown == len(sequence.generated):
            if sequence.error is not None:
                raise sequence.error
            return Chunk("", None, None, sequence.timings)
        token = sequence.generated[self._shown]
        if sequence.alternatives:
            alternatives = sequence.alternatives[self._shown]
        self._shown += 1
        text = self._stream.push(self._piece(token))
        if self._stream.stopped:
            self.finish_reason = "stop"
        elif self._shown == len(sequence.generated) and sequence.finish_reason in ("stop", "length"):
            self.finish_reason = sequence.finish_reason
            text += self._stream.flush()
        return Chunk(text, token, self.finish_reason, sequence.timings, alternatives)

    def steer(self, blend: Blend) -> None:
        """Use other dials from the next token on. Raises OptionError for a trait that is not the family's."""
        self._sequence.factors, self._sequence.filter = self._factors(blend), blend.filter

    def close(self) -> None:
        """Leave the engine, finished or not."""
        if not self._closed:
            self._closed = True
            self._turn.after(self._leave)

    def _leave(self) -> None:
        # Others' steps, and rounds of speculation, bring tokens that nobody saw where a reply ends early.
        self._sequence.drop(len(self._sequence.generated) - self._shown)
        self._ended(self._sequence)
