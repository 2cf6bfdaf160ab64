"""What `EFT` gives back: a reply chunk by chunk or whole, and the score of a text."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator
from collections.abc import Sequence as Seq
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from eft_gguf.engine.sampler import Alternatives
from eft_gguf.engine.sequence import Timings


@dataclass(frozen=True, slots=True)
class Chunk:
    """What one step of a reply brought. `text` may be empty: during prefill, or while a character is incomplete.

    token: the sampled id, None during prefill.  finish_reason: set on the last chunk: "stop" (end token or stop text)
    or "length" (max_tokens, or the context is full).  timings: up to now; the same object on every chunk of a reply.
    alternatives: log-probabilities under the blend, where `Sampling.logprobs` asks for them.
    """

    text: str
    token: int | None
    finish_reason: str | None
    timings: Timings
    alternatives: Alternatives | None = None


@dataclass(frozen=True, slots=True)
class Completion:
    """A whole reply. `tokens` are all sampled ids, the end token included; `alternatives` as in Chunk, one each."""

    text: str
    tokens: list[int]
    finish_reason: str
    timings: Timings
    alternatives: list[Alternatives] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Score:
    """Natural log-probabilities of a text's tokens, each given all before it, shape (n,); the first is NaN.

    blend: under the blend.  members: under each model alone, by member name.
    """

    tokens: list[int]
    texts: list[str]
    blend: NDArray[np.float64]
    members: dict[str, NDArray[np.float64]]


def joined(chunks: Seq[Chunk]) -> Completion:
    """A whole reply from its chunks."""
    last = chunks[-1]
    tokens = [chunk.token for chunk in chunks if chunk.token is not None]
    text = "".join(chunk.text for chunk in chunks)
    alternatives = [chunk.alternatives for chunk in chunks if chunk.alternatives is not None]
    return Completion(text, tokens, last.finish_reason or "", last.timings, alternatives)


def in_turns(
    under_way: dict[int, Generator[Chunk, None, None]], replies: dict[int, Callable[[], Generator[Chunk, None, None]]]
) -> Generator[tuple[int, Chunk], None, None]:
    """A chunk of each reply in turn. Where one ends, the next that is not `under_way` begins."""
    to_come = deque(number for number in replies if number not in under_way)
    try:
        while under_way:
            for number, reply in list(under_way.items()):
                chunk = next(reply)
                yield number, chunk
                if chunk.finish_reason is not None:
                    del under_way[number]
                    reply.close()
                    if to_come:
                        following = to_come.popleft()
                        under_way[following] = replies[following]()
    finally:
        for reply in under_way.values():
            reply.close()
