"""What decodes cost on this machine: measured while nothing is cached, in some seconds, and leaving no trace."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from statistics import median

import numpy as np
from numpy.typing import NDArray

from eft_gguf.blend.equation import members_needed
from eft_gguf.engine.draft_length import Costs
from eft_gguf.engine.engine import Engine
from eft_gguf.engine.ensemble import Ensemble, Part
from eft_gguf.engine.kept_costs import costs_file, keep_costs, read_costs
from eft_gguf.engine.rollback import members_that_roll_back
from eft_gguf.engine.sampler import Sampler
from eft_gguf.engine.sampling import Sampling
from eft_gguf.engine.sequence import Sequence as Reply
from eft_gguf.engine.speculation import OFF, Speculation
from eft_gguf.models.references import Reference

SIZES = (1, 2, 4, 8, 17, 3, 6, 12)
"""Tokens of the decodes that are measured; between them costs are interpolated. The first two are always measured."""

SECONDS, MOST_SECONDS = 0.3, 3.0
"""After so long no further pass over all sizes begins: after the former once there are three passes, after the latter
two. Large models so take some seconds, tiny ones some tenths."""
LONGEST = 8.0
"""Seconds after which no further decode begins: so slow are models only on a machine that is busy otherwise."""

SHORT = 0.005
"""Seconds. Decodes this short are done twice, and the second counts: it finds llama.cpp's plan of the first ready."""

STEADY = 1.6
"""The quartiles of a token's time, as a ratio, beyond which the machine was too busy for the figures to be kept."""

TEXT = (
    "The lighthouse stood at the end of a long pier, and every evening its keeper climbed the stairs, trimmed the lamp "
    "and wrote the names of passing ships into a book. On clear nights he counted them twice. When fog came in he rang "
    "the bell every minute until morning, and nobody slept. "
)
DEPTH = 64
"""Tokens that stand before those that are timed."""

DRAFTS, STEPS, STEPS_SECONDS = 4, 8, 1.0
"""Drafts a round, and rounds or seconds, by which what is not decoding is measured."""


def open_speculation(
    ensemble: Ensemble,
    setting: str | int,
    references: Sequence[Reference],
    factors: Sequence[float],
    progress: Callable[[str], None],
) -> Speculation | None:
    """Speculation as a user wants it, None for none; costs are measured where they are not on disk yet.

    setting: as `checked_setting` gives it.  factors: those of the usual blend.  To be called while nothing is cached.
    """
    if setting == OFF:
        return None
    rolls_back = members_that_roll_back(ensemble)
    if isinstance(setting, int):
        return Speculation(ensemble, length=setting, rolls_back=rolls_back)
    path = costs_file(ensemble, references, factors)
    costs = read_costs(path, len(rolls_back))
    if costs is None:
        progress("measuring what drafts would cost (once for these models)")
        costs, steady = measure_costs(ensemble, rolls_back, factors)
        if steady:
            keep_costs(path, costs)
            costs = read_costs(path, len(rolls_back)) or costs
    return Speculation(ensemble, costs=costs, rolls_back=rolls_back)


def measure_costs(ensemble: Ensemble, rolls_back: Sequence[bool], factors: Sequence[float]) -> tuple[Costs, bool]:
    """(costs, whether the machine was steady enough for them to be kept). Members that do not roll back cost nothing.

    factors: those of the usual blend.
    """
    members = [member for member, able in enumerate(rolls_back) if able]
    tokens = [token for token in ensemble.tokenizer.tokenize(TEXT, special=False) if token < ensemble.n_vocab] or [0]
    depth = min(DEPTH, ensemble.ctx // 4, ensemble.batch)
    sizes = [size for size in SIZES if size <= min(ensemble.outputs, ensemble.ctx - depth)]
    seconds: dict[tuple[int, int], list[float]] = {(member, size): [] for member in members for size in sizes}
    for member in members:
        ensemble.decode(member, [Part(0, 0, _repeated(tokens, depth), 0)] if depth else [])
    started = time.perf_counter()
    passes = 0
    while passes < 2 or time.perf_counter() - started < (MOST_SECONDS if passes < 3 else SECONDS):
        for number, size in enumerate(sizes):
            if time.perf_counter() - started > LONGEST and (passes or number > 1):
                break
            for member in members:
                for _ in range(3 if size == 1 else 1):
                    taken = _timed(ensemble, member, tokens, depth, size)
                    if taken < SHORT:
                        taken = _timed(ensemble, member, tokens, depth, size)
                    seconds[member, size].append(taken)
        passes += 1
    for member in members:
        ensemble.forget(member, 0, 0)
    measured = sorted(size for size in sizes if all(seconds[member, size] for member in members))
    curves = [
        _curve({size: _usual(seconds[member, size]) for size in measured}) if able else np.zeros(measured[-1] + 1)
        for member, able in enumerate(rolls_back)
    ]
    single = [np.percentile(seconds[member, 1], [25, 75]) for member in members]
    steady = len(measured) == len(sizes) and all(high < STEADY * low for low, high in single)
    step, draft = _besides(ensemble, rolls_back, factors, tokens)
    return Costs(curves, step, draft), steady


def _repeated(tokens: Sequence[int], count: int) -> list[int]:
    return [tokens[at % len(tokens)] for at in range(count)]


def _timed(ensemble: Ensemble, member: int, tokens: Sequence[int], depth: int, size: int) -> float:
    """Seconds of a decode of `size` tokens, their logits at hand."""
    following = _repeated(tokens, depth + size)[depth:]
    started = time.perf_counter()
    ensemble.decode(member, [Part(0, depth, following, size)])
    ensemble.rows(member)  # waits for a GPU
    taken = time.perf_counter() - started
    ensemble.forget(member, 0, depth)
    return taken


def _usual(seconds: Sequence[float]) -> float:
    """The lower quartile: what disturbs a decode makes it longer, never shorter."""
    return float(np.percentile(seconds, 25, method="lower"))


def _curve(measured: dict[int, float]) -> NDArray[np.float64]:
    """Seconds of a decode of n tokens at place n. A batch costs no more than a larger one: all else is noise."""
    sizes = [0, *measured]
    falling = np.minimum.accumulate([0.0, *measured.values()][::-1])[::-1]
    return np.interp(np.arange(sizes[-1] + 1), sizes, falling)


def _besides(
    ensemble: Ensemble, rolls_back: Sequence[bool], factors: Sequence[float], tokens: Sequence[int]
) -> tuple[float, float]:
    """Seconds that a step takes besides decoding, and what each draft adds to that."""
    plain = _rounds(ensemble, rolls_back, factors, tokens, length=0)
    drafted = _rounds(ensemble, rolls_back, factors, tokens, length=DRAFTS)
    step = median(seconds for seconds, _ in plain) if plain else 0.0
    more = [(seconds - step) / drafts for seconds, drafts in drafted if drafts]
    return step, max(0.0, median(more)) if more else step


def _rounds(
    ensemble: Ensemble, rolls_back: Sequence[bool], factors: Sequence[float], tokens: Sequence[int], *, length: int
) -> list[tuple[float, int]]:
    """Of some rounds the seconds besides decoding, and the number of drafts."""
    speculation = Speculation(ensemble, length=length, rolls_back=rolls_back)
    engine = Engine(ensemble, speculation=speculation)
    found: list[tuple[float, int]] = []
    end = time.perf_counter() + STEPS_SECONDS
    ids = _repeated(tokens, max(1, min(8, ensemble.ctx // 4)))
    for attempt in range(3):
        if len(found) >= STEPS or (found and time.perf_counter() > end):
            break
        sampler = Sampler(Sampling(seed=attempt, temperature=1.0), ensemble.tokenizer, ensemble.n_vocab)
        reply = Reply([ids] * len(ensemble.names), factors, sampler, max_tokens=None)
        try:
            engine.add(reply)
            engine.step()
            while reply.finish_reason is None and len(found) < STEPS and (not found or time.perf_counter() < end):
                decoded, drafted = sum(reply.timings.model_seconds.values()), reply.timings.drafted
                started = time.perf_counter()
                engine.step()
                seconds = time.perf_counter() - started
                if len(reply.generated) > 3:  # the first compile kernels, or load them
                    seconds -= sum(reply.timings.model_seconds.values()) - decoded
                    found.append((seconds, reply.timings.drafted - drafted))
        finally:
            engine.remove(reply)
    for member in members_needed(factors, reply.filter):
        for number in range(ensemble.sequences):
            ensemble.forget(member, number, 0)
    return found
