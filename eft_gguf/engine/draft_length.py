"""How many tokens to draft: as many as bring the most tokens a second, by what decodes cost and drafts are worth.

A round of k drafts by a model decodes k + 1 single tokens on it, and one batch of k + 1 on each other member; drafts
looked up in the text are one batch of k + 1 on all. If each draft is taken with probability a, a round brings
1 + a + … + a^k tokens (Leviathan et al., arXiv 2211.17192, equation 1). Costs come from `Costs`, measured once, and a
from the tokens so far: no clock has a part, so a seed gives the same rounds again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

LIMIT = 16
"""Drafts in a round, at most."""

PRIOR, PRIOR_WEIGHT = 0.7, 2.0
"""The acceptance that a sequence begins with, and how many tokens' worth of evidence that is."""

LOOKUP_PRIOR = 0.5
"""Likewise of drafts that are looked up in the text."""

MEMORY = 40.0
"""Over how many tokens the acceptance is averaged: it changes with what the text is about."""

WORTH = 1.02
"""How much faster than without drafts a length must promise to be: less is within what the costs are known to."""


@dataclass(frozen=True, slots=True)
class Costs:
    """Seconds. curves: by member, of a decode of n tokens, at place n; all of one length, place 0 is 0.

    step: all else of a step (blend, sample, Python), without what each sequence adds to that.  draft: what a draft
    that is taken adds.
    """

    curves: Sequence[NDArray[np.float64]]
    step: float = 0.0
    sequence: float = 0.0
    draft: float = 0.0


@dataclass(slots=True)
class Acceptance:
    """How likely a draft is to be taken: an average of what was seen, over the last `MEMORY` tokens or so."""

    rate: float = PRIOR
    _weight: float = PRIOR_WEIGHT

    def see(self, overlap: float) -> None:
        """A draft was taken with this probability; 0 or 1 where only that is known."""
        self._weight = min(self._weight + 1, MEMORY)
        self.rate += (overlap - self.rate) / self._weight

    def expected(self) -> NDArray[np.float64]:
        """Tokens that a round of 0 to `LIMIT` drafts brings."""
        return np.cumsum(np.power(np.float64(self.rate), np.arange(LIMIT + 1)), dtype=np.float64)


@dataclass(frozen=True, slots=True)
class Prospect:
    """One sequence's part in a round: the members that decode it, who drafts (None: looked up), how many at most."""

    members: tuple[int, ...]
    drafter: int | None
    most: int
    acceptance: Acceptance = field(default_factory=Acceptance)


def round_seconds(
    prospects: Sequence[Prospect], costs: Costs, most: int, beside: Sequence[int] = ()
) -> NDArray[np.float64]:
    """What rounds of 0 to `most` drafts a sequence cost; a sequence that can take fewer takes what it can.

    beside: by member, tokens of prompts that are decoded in the same batch.
    """
    lengths = np.arange(most + 1)
    tokens = [np.full(most + 1, count) for count in beside or [0] * len(costs.curves)]
    drafting = [np.zeros(most, np.int64) for _ in costs.curves]
    drafts = np.zeros(most + 1, np.int64)
    for prospect in prospects:
        own = np.minimum(lengths, prospect.most)
        drafts += own
        for member in prospect.members:
            tokens[member] += 1 if member == prospect.drafter else own + 1
        if prospect.drafter is not None:
            drafting[prospect.drafter][: prospect.most] += 1
    seconds = costs.step + costs.sequence * len(prospects) + costs.draft * drafts
    for curve, count, ahead in zip(costs.curves, tokens, drafting, strict=True):
        seconds += _at(curve, count)
        seconds[1:] += np.cumsum(_at(curve, ahead))
    return np.asarray(seconds)


def best_length(
    prospects: Sequence[Prospect], costs: Costs, most: int, beside: Sequence[int] = ()
) -> tuple[int, float]:
    """(drafts a sequence, tokens a second that they are expected to bring); 0 drafts unless others are worth it."""
    expected = np.zeros(most + 1)
    for prospect in prospects:
        expected += prospect.acceptance.expected()[np.minimum(np.arange(most + 1), prospect.most)]
    rates = expected / round_seconds(prospects, costs, most, beside)
    best = int(np.argmax(rates))
    if rates[best] < WORTH * rates[0]:
        best = 0
    return best, float(rates[best])


def _at(curve: NDArray[np.float64], count: NDArray[np.int64]) -> NDArray[np.float64]:
    """Seconds of decodes of `count` tokens; beyond what was measured, as much more a token as over its last half."""
    last = len(curve) - 1
    middle = max(last // 2, 0)
    slope = (curve[last] - curve[middle]) / max(last - middle, 1)
    return np.asarray(curve[np.minimum(count, last)] + slope * np.maximum(count - last, 0))
