"""How sure a measured share is. Each function names its source."""

from __future__ import annotations

from math import sqrt

Z = 1.959963984540054
"""The normal distribution's 97.5 % point: intervals hold the true value 95 times in 100."""


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
