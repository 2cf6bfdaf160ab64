"""How sure a measured share is. Each function names its source."""

from __future__ import annotations

from dataclasses import dataclass
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
