"""What decodes cost on this machine: measured while nothing is cached, in some seconds, and leaving no trace."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from statistics import median

import numpy as np
from numpy.typing import NDArray

from eft_gguf.blend.equation import Filter, members_needed
from eft_gguf.engine.draft_length import Costs
from eft_gguf.engine.engine import Engine
from eft_gguf.engine.ensemble import Ensemble, Part
from eft_gguf.engine.kept_costs import costs_file, keep_costs, read_costs
from eft_gguf.engine.rollback import members_that_roll_back
from eft_gguf.engine.sampler import Sampler
from eft_gguf.engine.sampling import Sampling
from eft_gguf.engine.sequence import Sequence as Reply
from eft_gguf.engine.speculation import OFF, Speculation
from eft_gguf.engine.threads import SMALL
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

DRAFTS, SEVERAL, STEPS, STEPS_SECONDS, ATTEMPTS = 4, 4, 12, 0.7, 4
"""Drafts a round, sequences together, and rounds or seconds by which what is not decoding is measured; and how many
replies may end in the meantime."""

NEXT_TO_NOTHING = 1e-30
"""A factor that has a model decode, and no part in the blend."""


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
    # By size and not by costs: it decides what a seed gives, which no measurement may change.
    large = any(reference.path.stat().st_size >= SMALL for reference in references)
    return Speculation(ensemble, costs=costs, rolls_back=rolls_back, drawn=large)


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
    return Costs(curves, *_besides(ensemble, rolls_back, factors, tokens)), steady


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
) -> tuple[float, float, float]:
    """Seconds that a step takes besides decoding, what each sequence adds, and what each draft that is taken adds."""
    tuned = [member for member in ensemble.tuned if factors[member] > 0]
    drafter = max(tuned, key=lambda member: factors[member], default=-1)
    # All members are decoded, but the drafter alone decides: every draft is taken.
    alike = [1.0 if member == drafter else NEXT_TO_NOTHING * bool(factor) for member, factor in enumerate(factors)]
    together = min(SEVERAL, ensemble.sequences)
    measure = partial(_rounds, ensemble, rolls_back, factors if drafter < 0 else alike, tokens)
    one = median(seconds for seconds, _ in measure(length=0, together=1) or [(0.0, 0)])
    several = measure(length=0, together=together) if together > 1 else []
    sequence = 0.0
    if several:
        sequence = (median(seconds for seconds, _ in several) - one) / (together - 1)
        sequence = min(max(sequence, 0.0), one)
    drafted = [(seconds - one) / drafts for seconds, drafts in measure(length=DRAFTS, together=1) if drafts]
    return one - sequence, sequence, max(0.0, median(drafted)) if drafted else one


def _rounds(
    ensemble: Ensemble,
    rolls_back: Sequence[bool],
    factors: Sequence[float],
    tokens: Sequence[int],
    *,
    length: int,
    together: int,
) -> list[tuple[float, int]]:
    """Of some rounds of so many sequences the seconds besides decoding, and the number of drafts."""
    engine = Engine(ensemble, speculation=Speculation(ensemble, length=length, rolls_back=rolls_back))
    found: list[tuple[float, int]] = []
    end = time.perf_counter() + STEPS_SECONDS
    ids = _repeated(tokens, max(1, min(8, ensemble.ctx // 4)))
    for attempt in range(ATTEMPTS):
        replies = []
        try:
            for number in range(together):
                sampler = Sampler(Sampling(seed=ATTEMPTS * number + attempt), ensemble.tokenizer, ensemble.n_vocab)
                replies.append(Reply([ids] * len(ensemble.names), factors, sampler, max_tokens=None))
                engine.add(replies[-1])
            engine.step()
            while all(reply.finish_reason is None for reply in replies):
                if len(found) == STEPS or (found and time.perf_counter() > end):
                    return found
                before = [(sum(each.timings.model_seconds.values()), each.timings.drafted) for each in replies]
                started = time.perf_counter()
                engine.step()
                seconds = time.perf_counter() - started
                if all(len(reply.generated) > 3 for reply in replies):  # the first compile kernels, or load them
                    seconds -= sum(replies[0].timings.model_seconds.values()) - before[0][0]
                    drafts = sum(reply.timings.drafted for reply in replies) - sum(drafted for _, drafted in before)
                    found.append((seconds, drafts))
        finally:
            for reply in replies:
                engine.remove(reply)
            for member in members_needed(factors, Filter()):
                for number in range(ensemble.sequences):
                    ensemble.forget(member, number, 0)
            engine = Engine(ensemble, speculation=Speculation(ensemble, length=length, rolls_back=rolls_back))
    return found
