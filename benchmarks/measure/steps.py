"""A blended step against the bare `llama_decode` calls that it needs.

Both in pairs, in turn: the step is what a caller of `EFT.stream` waits for the next chunk; the bare calls then decode
the same token at the same position in the same contexts. A slow moment of the machine hits both of a pair.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import llama_cpp.llama_cpp as lib

from eft_gguf import EFT, Blend, Filter, Sampling
from eft_gguf.engine.sampler import Sampler
from measure.report import Spread, Table, verdict

BOUND = 1.02
FILTERED_BOUND = 1.03
ALL_FILTERS = Filter(0.95, 0.95, 0.1, -7)
WARM_UP = 4
TEXT = "The lighthouse stood at the end of a long pier, and every evening its keeper climbed the stairs and"


@dataclass(frozen=True)
class Steps:
    """Seconds by pair; `bare_models` are the parts of the bare calls, by member."""

    filtered: bool
    ratio: Spread
    step: Spread
    bare: Spread
    bare_models: dict[str, Spread]
    sampling: Spread

    @property
    def bound(self) -> float:
        return FILTERED_BOUND if self.filtered else BOUND

    @property
    def kept(self) -> bool:
        return self.ratio.median <= self.bound

    def table(self, title: str) -> Table:
        return Table(
            title,
            ("", "median (quartiles)"),
            [
                ("blended step", self.step.text(2, scale=1e3) + " ms"),
                ("the bare `llama_decode` calls", self.bare.text(2, scale=1e3) + " ms"),
                *((f"– {name}", spread.text(2, scale=1e3) + " ms") for name, spread in self.bare_models.items()),
                (
                    "sample, after the filter" if self.filtered else "blend and sample, in the step",
                    self.sampling.text(3, scale=1e3) + " ms",
                ),
                ("step ÷ bare calls, by pair", self.ratio.text(4)),
                (f"bound {self.bound}", verdict(self.ratio.median, self.bound)),
            ],
            f"{self.ratio.count} pairs, default sampling, contexts of the default size.",
        )


def measure_steps(eft: EFT, pairs: int, filter: Filter | None = None) -> Steps:
    """Time `pairs` steps of the default dials and sampling, and the bare calls beside them."""
    blend = Blend(filter=filter or Filter())
    steps: list[float] = []
    bare: list[list[float]] = []
    with _timed_sampling() as sampling:
        while len(steps) < pairs + WARM_UP:
            reply = eft.stream(TEXT, blend=blend, sampling=Sampling(seed=len(steps), max_tokens=64))
            chunk = next(chunk for chunk in reply if chunk.token is not None)
            while chunk.finish_reason is None and len(steps) < pairs + WARM_UP:
                assert chunk.token is not None
                position = chunk.timings.prompt_tokens + chunk.timings.generated_tokens - 1
                # Who goes first changes from pair to pair: the second finds the processor as the first left it.
                if len(steps) % 2:
                    bare.append(bare_decodes(eft, [(chunk.token, position, 0)]))
                    forget(eft, [(position, 0)])
                    started = time.perf_counter()
                    following = next(reply)
                    steps.append(time.perf_counter() - started)
                else:
                    started = time.perf_counter()
                    following = next(reply)
                    steps.append(time.perf_counter() - started)
                    forget(eft, [(position, 0)])
                    bare.append(bare_decodes(eft, [(chunk.token, position, 0)]))
                chunk = following
            reply.close()
    steps, bare = steps[WARM_UP:], bare[WARM_UP:]
    return Steps(
        filtered=filter is not None,
        ratio=Spread.of([step / sum(parts) for step, parts in zip(steps, bare, strict=True)]),
        step=Spread.of(steps),
        bare=Spread.of([sum(parts) for parts in bare]),
        bare_models={
            eft.members[member]: Spread.of([parts[i] for parts in bare]) for i, member in enumerate(used(eft))
        },
        sampling=Spread.of(sampling[WARM_UP:]),
    )


def bare_decodes(eft: EFT, tokens: Sequence[tuple[int, int, int]]) -> list[float]:
    """Decode tokens on every model by nothing but llama.cpp's function; the seconds of each.

    tokens: each with its position and llama.cpp's number of its sequence.
    """
    contexts = [eft._ensemble._contexts[member] for member in used(eft)]
    for context in contexts:
        context.batch.clear()
        for token, position, sequence in tokens:
            context.batch.add([token], position=position, sequence=sequence, outputs=1)
    seconds = []
    for context in contexts:
        pointer, batch = context._context, context.batch.struct
        started = time.perf_counter()
        status = lib.llama_decode(pointer, batch)
        seconds.append(time.perf_counter() - started)
        assert status == 0
    return seconds


def forget(eft: EFT, places: Sequence[tuple[int, int]]) -> None:
    """Take back what was decoded from each position of a sequence on, so that it can be decoded once more."""
    for member in used(eft):
        for position, sequence in places:
            eft._ensemble._contexts[member].forget(sequence, position)


def used(eft: EFT) -> list[int]:
    """The members that have part in the default blend: a trait of weight 0 has none."""
    return [member for member, factor in enumerate(eft.family.factors(Blend())) if factor != 0.0]


@contextmanager
def _timed_sampling() -> Iterator[list[float]]:
    """The seconds of every `Sampler.sample` while this lasts."""
    seconds: list[float] = []
    original = Sampler.sample

    def timed(self: Sampler, *arguments: object) -> int:
        started = time.perf_counter()
        token = original(self, *arguments)  # type: ignore[arg-type]
        seconds.append(time.perf_counter() - started)
        return token

    Sampler.sample = timed  # type: ignore[method-assign,assignment]
    try:
        yield seconds
    finally:
        Sampler.sample = original  # type: ignore[method-assign]
