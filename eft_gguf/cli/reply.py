"""One reply, followed to its end or to Ctrl-C."""

from __future__ import annotations

import signal
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import TYPE_CHECKING

from eft_gguf.cli.display import Status

if TYPE_CHECKING:
    from eft_gguf import Chunk
    from eft_gguf.engine.sequence import Timings


@dataclass(frozen=True, slots=True)
class Reply:
    """What came: the text, how it ended ("stop", "length" or "interrupted"), its figures, and its token ids."""

    text: str
    finish_reason: str
    timings: Timings
    tokens: tuple[int, ...] = ()


def follow(chunks: Generator[Chunk, None, None], show: Callable[[str], None]) -> Reply:
    """Hand each piece of text to `show` as it comes. Ctrl-C ends the reply; a second one ends the program."""
    pieces: list[str] = []
    tokens: list[int] = []
    with Status() as status, interruption() as interrupted, closing(chunks):
        status("reading the prompt")
        for chunk in chunks:
            timings = chunk.timings
            if chunk.token is not None:
                tokens.append(chunk.token)
            if chunk.text:
                status.clear()
                pieces.append(chunk.text)
                show(chunk.text)
            elif timings.prefill_done < timings.prefill_total:
                status(f"reading the prompt: {timings.prefill_done} of {timings.prefill_total} tokens")
            if chunk.finish_reason:
                return Reply("".join(pieces), chunk.finish_reason, timings, tuple(tokens))
            if interrupted():
                return Reply("".join(pieces), "interrupted", timings, tuple(tokens))
    raise AssertionError("the reply ended without a finish reason")


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
