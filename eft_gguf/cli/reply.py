"""A reply, or several to one prompt, followed to the end or to Ctrl-C."""

from __future__ import annotations

import signal
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import TYPE_CHECKING

from eft_gguf.cli.display import Status

if TYPE_CHECKING:
    from eft_gguf import Chunk
    from eft_gguf.engine.sampler import Alternatives
    from eft_gguf.engine.sequence import Timings


@dataclass(frozen=True, slots=True)
class Reply:
    """What came: the text, how it ended ("stop", "length" or "interrupted"), its figures, and its token ids.

    alternatives: to each token, where log-probabilities were asked for.
    """

    text: str
    finish_reason: str
    timings: Timings
    tokens: tuple[int, ...] = ()
    alternatives: tuple[Alternatives, ...] = ()


@dataclass(slots=True)
class _SoFar:
    """A reply under way."""

    pieces: list[str] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    alternatives: list[Alternatives] = field(default_factory=list)

    def add(self, chunk: Chunk) -> None:
        if chunk.token is not None:
            self.tokens.append(chunk.token)
        if chunk.alternatives is not None:
            self.alternatives.append(chunk.alternatives)
        if chunk.text:
            self.pieces.append(chunk.text)

    def ended(self, finish_reason: str, timings: Timings) -> Reply:
        return Reply("".join(self.pieces), finish_reason, timings, tuple(self.tokens), tuple(self.alternatives))


def follow(chunks: Generator[Chunk, None, None], show: Callable[[str], None]) -> Reply:
    """Hand each piece of text to `show` as it comes. Ctrl-C ends the reply; a second one ends the program."""
    so_far = _SoFar()
    with Status() as status, interruption() as interrupted, closing(chunks):
        status("reading the prompt")
        for chunk in chunks:
            timings = chunk.timings
            so_far.add(chunk)
            if chunk.text:
                status.clear()
                show(chunk.text)
            elif timings.prefill_done < timings.prefill_total:
                status(f"reading the prompt: {timings.prefill_done} of {timings.prefill_total} tokens")
            if chunk.finish_reason:
                return so_far.ended(chunk.finish_reason, timings)
            if interrupted():
                return so_far.ended("interrupted", timings)
    raise AssertionError("the reply ended without a finish reason")


def follow_several(
    chunks: Generator[tuple[int, Chunk], None, None], n: int, show: Callable[[int, Reply], None]
) -> list[Reply]:
    """Hand each of `n` replies to `show` once it and those before it are whole, with its number from 0.

    Ctrl-C ends all: those under way are shown as far as they came, those not begun are missing.
    """
    so_far = [_SoFar() for _ in range(n)]
    last: dict[int, Chunk] = {}
    replies: list[Reply] = []
    with Status() as status, interruption() as interrupted, closing(chunks):
        status("reading the prompt")
        for number, chunk in chunks:
            so_far[number].add(chunk)
            last[number] = chunk
            while len(replies) < n and (ended := last.get(len(replies))) and (ended.finish_reason or interrupted()):
                status.clear()
                replies.append(so_far[len(replies)].ended(ended.finish_reason or "interrupted", ended.timings))
                show(len(replies) - 1, replies[-1])
            if interrupted():
                break
            tokens = sum(len(reply.tokens) for reply in so_far)
            status(f"{tokens} tokens; {sum(c.finish_reason is not None for c in last.values())} of {n} replies whole")
    return replies


@contextmanager
def interruption() -> Iterator[Callable[[], bool]]:
    """Within it Ctrl-C only sets the flag that is yielded: an exception would fly through a decode under way.

    A second Ctrl-C ends the process at once, since the first may be waiting for a long call of llama.cpp.
    """
    seen = False

    def first(signal_number: int, frame: FrameType | None) -> None:
        nonlocal seen
        seen = True
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    before = signal.signal(signal.SIGINT, first)
    try:
        yield lambda: seen
    finally:
        signal.signal(signal.SIGINT, before)
