"""How sure a measured share is. Each function names its source."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import comb, sqrt
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

Z = 1.959963984540054
"""The normal distribution's 97.5 % point: intervals hold the true value 95 times in 100."""
RESAMPLES = 2000
"""Of a bootstrap."""


def wilson(right: float, asked: int) -> tuple[float, float]:
    """95 % score interval of the share right / asked (Wilson, 1927); (0, 1) where nothing was asked.

    `right` may hold fractions, as a sum of scores between 0 and 1 does: such a score varies at most as much as one
    that is 0 or 1 with the same mean, so the interval is then wider than it need be.
    """
    if asked == 0:
        return 0.0, 1.0
    share, spread = right / asked, Z * Z / asked
    centre = share + spread / 2
    half = Z * sqrt(share * (1 - share) / asked + spread / (4 * asked))
    return max(0.0, (centre - half) / (1 + spread)), min(1.0, (centre + half) / (1 + spread))


@dataclass(frozen=True, slots=True)
class Share:
    """How much of what was asked is right; `right` may be a sum of scores from 0 to 1."""

    right: float
    asked: int

    @property
    def value(self) -> float:
        """From 0 to 1; 0 where nothing was asked."""
        return self.right / self.asked if self.asked else 0.0

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's, 95 %."""
        return wilson(self.right, self.asked)

    def text(self) -> str:
        """Per cent with its interval, as `94.5 (92–96)`."""
        if not self.asked:
            return "–"
        low, high = self.interval
        return f"{100 * self.value:.1f} ({100 * low:.0f}–{100 * high:.0f})"

    def as_dict(self) -> dict[str, float]:
        """All figures as plain values, for JSON."""
        low, high = self.interval
        return {
            "right": self.right,
            "asked": self.asked,
            "share": round(self.value, 6),
            "low": round(low, 6),
            "high": round(high, 6),
        }


def mcnemar(gained: int, lost: int) -> float:
    """Two-sided p-value of McNemar's exact test: are two settings equally often right on the same questions?

    gained, lost: questions that only the second, only the first gets right. Under equality each of these is a coin's
    toss (McNemar, 1947), so this is the binomial test; where both got the same questions right it is 1.
    """
    pairs, fewer = gained + lost, min(gained, lost)
    return min(1.0, 2 * sum(comb(pairs, i) for i in range(fewer + 1)) / (1 << pairs))


def holm(values: Sequence[float]) -> list[float]:
    """p-values corrected for their number, in their order: each below α only if the test holds at α for all together.

    Step-down Bonferroni (Holm, 1979): the smallest is multiplied by their number, the next by one less …
    """
    corrected, highest = [0.0] * len(values), 0.0
    for rank, place in enumerate(sorted(range(len(values)), key=values.__getitem__)):
        highest = max(highest, min(1.0, (len(values) - rank) * values[place]))
        corrected[place] = highest
    return corrected


def bootstrap(scores: NDArray[np.float64], *, seed: int = 0) -> tuple[float, float]:
    """95 % interval of the mean of scores, shape (n,): the percentile bootstrap's over questions (Efron, 1979).

    2,000 resamples. Wilson's where all scores are equal, since resampling then finds no spread; (0, 1) of none.
    """
    if not len(scores) or (scores == scores[0]).all():
        return wilson(float(scores.sum()), len(scores))
    drawn = np.random.default_rng(seed).integers(len(scores), size=(RESAMPLES, len(scores)))
    low, high = np.quantile(scores[drawn].mean(axis=1), [0.025, 0.975])
    return float(low), float(high)


def ratio_interval(parts: NDArray[np.float64], wholes: NDArray[np.float64], *, seed: int = 0) -> tuple[float, float]:
    """95 % interval of Σ parts / Σ wholes, both of shape (n,): the percentile bootstrap's over the n.

    For shares of things that come in groups, such as the tokens of replies. Groups of nothing have no part in it.
    """
    parts, wholes = parts[wholes > 0], wholes[wholes > 0]
    drawn = np.random.default_rng(seed).integers(len(parts), size=(RESAMPLES, len(parts)))
    low, high = np.quantile(parts[drawn].sum(axis=1) / wholes[drawn].sum(axis=1), [0.025, 0.975])
    return float(low), float(high)


def paired_interval(gained: int, lost: int, asked: int, *, alpha: float = 0.05) -> tuple[float, float]:
    """Interval of the difference between two shares right of the same questions, −1 to 1; 95 % without `alpha`.

    Wald's with half a question added to each of the four cells (Agresti and Min, 2005): it stays honest where few
    questions differ, or none.
    """
    count = asked + 2
    difference = (gained - lost) / count
    half = NormalDist().inv_cdf(1 - alpha / 2) * sqrt(gained + lost + 1 - (gained - lost) ** 2 / count) / count
    return max(-1.0, difference - half), min(1.0, difference + half)


@dataclass(frozen=True, slots=True)
class Fraction:
    """A part of a gap, 1 for all of it, with its 95 % interval."""

    value: float
    low: float
    high: float


def gap_closed(
    start: NDArray[np.float64], reached: NDArray[np.float64], end: NDArray[np.float64], *, seed: int = 0
) -> Fraction | None:
    """How much of the way from `start` to `end` was gone: scores of the same questions, each of shape (n,).

    The interval is the percentile bootstrap's over questions (Efron, 1979; 2,000 resamples). None where there is no
    gap that is sure to be one: where its own interval reaches 0.
    """
    if not len(start):
        return None
    drawn = np.random.default_rng(seed).integers(len(start), size=(RESAMPLES, len(start)))
    gaps = (end - start)[drawn].mean(axis=1)
    if np.quantile(gaps, 0.025) <= 0:
        return None
    with np.errstate(divide="ignore", invalid="ignore"):
        low, high = np.nanquantile((reached - start)[drawn].mean(axis=1) / gaps, [0.025, 0.975])
    return Fraction(float((reached - start).mean() / (end - start).mean()), float(low), float(high))
