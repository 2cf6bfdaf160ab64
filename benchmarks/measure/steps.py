"""A blended step against the bare `llama_decode` calls that it needs.

Both in pairs, in turn: the step is what a caller of `EFT.stream` waits for the next chunk; the bare calls then decode
the same token at the same position in the same contexts. A slow moment of the machine hits both of a pair.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import llama_cpp.llama_cpp as lib

from eft_gguf import EFT, Blend, Sampling
from eft_gguf.engine.sampler import Sampler
from measure.report import Spread, Table, verdict

BOUND = 1.03
WARM_UP = 4
TEXT = "The lighthouse stood at the end of a long pier, and every evening its keeper climbed the stairs and"


@dataclass(frozen=True)
class Steps:
    """Seconds by pair; `bare_models` are the parts of the bare calls, by member."""

    ratio: Spread
    step: Spread
    bare: Spread
    bare_models: dict[str, Spread]
    sampling: Spread

    def table(self, family: str) -> Table:
        return Table(
            f"A blended step, {family}",
            ("", "median (quartiles)"),
            [
                ("blended step", self.step.text(2, scale=1e3) + " ms"),
                ("the bare `llama_decode` calls", self.bare.text(2, scale=1e3) + " ms"),
                *((f"– {name}", spread.text(2, scale=1e3) + " ms") for name, spread in self.bare_models.items()),
                ("blend and sample, in the step", self.sampling.text(3, scale=1e3) + " ms"),
                ("step ÷ bare calls, by pair", self.ratio.text(4)),
                (f"bound {BOUND}", verdict(self.ratio.median, BOUND)),
            ],
            f"{self.ratio.count} pairs, default sampling, contexts of the default size.",
        )


def measure_steps(eft: EFT, pairs: int) -> Steps:
    """Time `pairs` steps of the default blend and sampling, and the bare calls beside them."""
    steps: list[float] = []
    bare: list[list[float]] = []
    with _timed_sampling() as sampling:
        while len(steps) < pairs + WARM_UP:
            reply = eft.stream(TEXT, sampling=Sampling(seed=len(steps), max_tokens=64))
            chunk = next(chunk for chunk in reply if chunk.token is not None)
            while chunk.finish_reason is None and len(steps) < pairs + WARM_UP:
                assert chunk.token is not None
                position = chunk.timings.prompt_tokens + chunk.timings.generated_tokens - 1
                # Who goes first changes from pair to pair: the second finds the processor as the first left it.
                if len(steps) % 2:
                    bare.append(bare_decodes(eft, chunk.token, position))
                    forget(eft, position)
                    started = time.perf_counter()
                    following = next(reply)
                    steps.append(time.perf_counter() - started)
                else:
                    started = time.perf_counter()
                    following = next(reply)
                    steps.append(time.perf_counter() - started)
                    forget(eft, position)
                    bare.append(bare_decodes(eft, chunk.token, position))
                chunk = following
            reply.close()
    steps, bare = steps[WARM_UP:], bare[WARM_UP:]
    return Steps(
        ratio=Spread.of([step / sum(parts) for step, parts in zip(steps, bare, strict=True)]),
        step=Spread.of(steps),
        bare=Spread.of([sum(parts) for parts in bare]),
        bare_models={
            eft.members[member]: Spread.of([parts[i] for parts in bare]) for i, member in enumerate(used(eft))
        },
        sampling=Spread.of(sampling[WARM_UP:]),
    )


def bare_decodes(eft: EFT, token: int, position: int) -> list[float]:
    """Decode a token on every model by nothing but llama.cpp's function; the seconds of each."""
    contexts = [eft._ensemble._contexts[member] for member in used(eft)]
    for context in contexts:
        context.batch.clear()
        context.batch.add([token], position=position, sequence=0, outputs=1)
    seconds = []
    for context in contexts:
        pointer, batch = context._context, context.batch.struct
        started = time.perf_counter()
        status = lib.llama_decode(pointer, batch)
        seconds.append(time.perf_counter() - started)
        assert status == 0
    return seconds


def forget(eft: EFT, position: int) -> None:
    """Take back what was decoded at `position`, so that it can be decoded once more."""
    for member in used(eft):
        eft._ensemble._contexts[member].forget(0, position)


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
