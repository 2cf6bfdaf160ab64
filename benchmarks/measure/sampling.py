"""Blend and sample, without any model: what a step costs beyond the decodes. NumPy does the same beside it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from eft_gguf import Sampling
from eft_gguf.engine.sampler import Sampler
from measure.machine import one_core
from measure.report import Spread, Table, verdict

BOUND = 0.3e-3
FACTORS = np.array([1.0, -1.0, 1.0])
TRIPLES = 8
"""Rows change from call to call, and together exceed the second-level cache: a real step's come fresh from a decode."""
TURN = 20

Rows = tuple[NDArray[np.float32], ...]
CASES = {
    "default": Sampling(seed=1),
    "greedy": Sampling(temperature=0),
    "whole vocabulary": Sampling(temperature=1, top_k=0, top_p=1, min_p=0, seed=1),
}
BOUNDED = ("default", "greedy")


@dataclass(frozen=True)
class SamplingTimes:
    """Seconds by case: through the engine's sampler, and by NumPy."""

    n_vocab: int
    ours: dict[str, Spread]
    numpy: dict[str, Spread]

    def table(self) -> Table:
        return Table(
            f"Blend of three models and sample, {self.n_vocab:,} tokens, one core",
            ("sampling", "ms, median (quartiles)", "NumPy", f"bound {BOUND * 1e3:.1f} ms"),
            [
                (
                    case,
                    self.ours[case].text(3, scale=1e3),
                    self.numpy[case].text(3, scale=1e3),
                    verdict(self.ours[case].median, BOUND) if case in BOUNDED else "none",
                )
                for case in CASES
            ],
            f"{next(iter(self.ours.values())).count} calls each, in turn.",
        )


def measure_sampling(n_vocab: int, calls: int) -> SamplingTimes:
    """Time each case on rows like a language model's."""
    rng = np.random.default_rng(0)
    triples = [model_like_rows(rng, n_vocab) for _ in range(TRIPLES)]
    # The model is asked about its vocabulary only by grammars and DRY.
    samplers = {case: Sampler(sampling, None, n_vocab) for case, sampling in CASES.items()}  # type: ignore[arg-type]
    peers = {"default": numpy_default, "greedy": numpy_greedy, "whole vocabulary": numpy_whole}
    ours: dict[str, list[float]] = {case: [] for case in CASES}
    numpy: dict[str, list[float]] = {case: [] for case in CASES}
    with one_core():
        for case, sampler in samplers.items():
            sampler.sample(triples[0], FACTORS)  # compiles, or loads what was compiled
            # Turns of some calls each: one by one, either would find the cache full of what the other left.
            for turn in range(-(-calls // TURN)):
                for call in range(turn * TURN, (turn + 1) * TURN):
                    rows = triples[call % TRIPLES]
                    ours[case].append(_seconds(lambda s=sampler, r=rows: s.sample(r, FACTORS)))  # type: ignore[misc]
                for call in range(turn * TURN, (turn + 1) * TURN):
                    rows = triples[call % TRIPLES]
                    numpy[case].append(_seconds(lambda c=case, r=rows: peers[c](r, rng)))  # type: ignore[misc]
            sampler.close()
    return SamplingTimes(
        n_vocab,
        {case: Spread.of(values) for case, values in ours.items()},
        {case: Spread.of(values) for case, values in numpy.items()},
    )


def numpy_blend(rows: Rows) -> NDArray[np.float32]:
    """The equation as one would write it, in float32."""
    return rows[1] + (rows[0] - rows[1]) + (rows[2] - rows[1])


def numpy_greedy(rows: Rows, rng: np.random.Generator) -> int:
    return int(numpy_blend(rows).argmax())


def numpy_default(rows: Rows, rng: np.random.Generator) -> int:
    """Top-k 40, top-p 0.95, min-p 0.05, temperature 0.7."""
    logits = numpy_blend(rows)
    top = np.argpartition(logits, -40)[-40:]
    top = top[np.argsort(-logits[top])]
    odds = np.exp(logits[top] - logits[top[0]])
    odds /= odds.sum()
    kept = int(np.searchsorted(np.cumsum(odds), 0.95)) + 1
    kept = min(kept, int((odds >= 0.05 * odds[0]).sum()))
    weights = np.exp((logits[top[:kept]] - logits[top[0]]) / 0.7).cumsum()
    return int(top[np.searchsorted(weights, rng.random() * weights[-1])])


def numpy_whole(rows: Rows, rng: np.random.Generator) -> int:
    logits = numpy_blend(rows)
    weights = np.exp(logits - logits.max()).cumsum()
    return int(np.searchsorted(weights, rng.random() * weights[-1]))


def model_like_rows(rng: np.random.Generator, n_vocab: int) -> Rows:
    """Logits of base, untuned and tuned, like a language model's: a bell, and a few tokens far above it."""
    shared = rng.normal(0, 2.5, n_vocab)
    shared[rng.integers(0, n_vocab, 50)] += rng.uniform(5, 15, 50)
    return tuple((shared + rng.normal(0, 0.5, n_vocab)).astype(np.float32) for _ in range(3))


def _seconds(call: Callable[[], int]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started
