"""What scaling one side of the matrix does, by paired tests, and the verdict on the paper's two claims.

The claims (Mitchell et al., arXiv 2310.12962): scaling up fine-tuning improves helpfulness, scaling up pre-training
improves factuality. Each is one comparison for every line of the matrix, of its smallest with its largest end, on the
same questions. The comparisons of both claims together are corrected for their number. Of a line the data say

* yes: the larger end is better, by McNemar's exact test at 0.05 with Holm's correction;
* no: else, if the larger end gains less than 5 points, by the upper end of the paired interval at Bonferroni's level;
* too little data: else.

A claim is "yes" if all its lines are, "no" if all are no, "in part" if one at least is yes, else "too little data".
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from eft_gguf.evaluation.matrix import MEASURES, Cell, Outcome
from eft_gguf.evaluation.statistics import Fraction, gap_closed, holm, paired_interval
from eft_gguf.evaluation.verdict import ALPHA, MARGIN, Comparison, compare

SCALED = ("pre-training", "fine-tuning")
CLAIMS = (("helpful", "fine-tuning"), ("facts", "pre-training"))
"""What is claimed to grow, with the scale of what."""


@dataclass(frozen=True, slots=True)
class Effect:
    """From one cell to another one where only one side is larger. counts: the end against the start as its rival.

    corrected: the p-value corrected for the number of effects it was tested with.  low, high: of the difference, at
    the level that this number asks for.
    """

    measure: str
    scaled: str
    start: Cell
    end: Cell
    counts: Comparison
    corrected: float
    low: float
    high: float

    @property
    def gain(self) -> float:
        """Difference of the shares, −1 to 1."""
        return (self.counts.gained - self.counts.lost) / self.counts.asked if self.counts.asked else 0.0

    @property
    def held(self) -> str:
        """The size of the side that stays."""
        return str(self.start.pair if self.scaled == "pre-training" else self.start.base)

    @property
    def verdict(self) -> str:
        """By the rule above."""
        if self.counts.gained > self.counts.lost and self.corrected < ALPHA:
            return "yes"
        return "no" if self.counts.asked and self.high < MARGIN else "too little data"

    def as_dict(self) -> dict[str, Any]:
        """All figures as plain values, for JSON."""
        return {
            "measure": self.measure,
            "scaled": self.scaled,
            "held": self.held,
            "from": {"base": self.start.base, "pair": self.start.pair},
            "to": {"base": self.end.base, "pair": self.end.pair},
            "asked": self.counts.asked,
            "right": [self.counts.rival_right, self.counts.blend_right],
            "gained": self.counts.gained,
            "lost": self.counts.lost,
            "gain": round(self.gain, 6),
            "low": round(self.low, 6),
            "high": round(self.high, 6),
            "p": self.counts.p,
            "corrected": self.corrected,
        }


@dataclass(frozen=True, slots=True)
class Claim:
    """A claim, the comparisons that it rests on, and what they say."""

    measure: str
    scaled: str
    lines: Sequence[Effect]

    @property
    def text(self) -> str:
        """The claim as a sentence without full stop."""
        what = {"helpful": "helpfulness", "facts": "factuality"}[self.measure]
        return f"scaling up {self.scaled} improves {what}"

    @property
    def verdict(self) -> str:
        """yes, in part, no or too little data; by the rule above."""
        said = [line.verdict for line in self.lines]
        for word in ("yes", "no"):
            if said and all(one == word for one in said):
                return word
        return "in part" if "yes" in said else "too little data"

    @property
    def reason(self) -> str:
        """What each line says, as `base S: no, +0.1 points (…)`, one below the other."""
        if not self.lines:
            side = "two tuned models" if self.scaled == "fine-tuning" else "two bases"
            return f"it takes {side} to tell"
        side = "base" if self.scaled == "fine-tuning" else "pair"
        return "\n".join(f"{side} {line.held}: {line.verdict}, {points(line)}" for line in self.lines)


def points(effect: Effect) -> str:
    """As `+9.6 points (7.0 to 12.1), p = 2e-12`."""
    low, high = 100 * effect.low, 100 * effect.high
    return f"{100 * effect.gain:+.1f} points ({low:+.1f} to {high:+.1f}), p = {effect.corrected:.2g}"


def neighbours(outcome: Outcome) -> list[Effect]:
    """Every step to the next larger base and to the next larger pair, for both measures, corrected together."""
    wanted = [
        (measure, scaled, line[place], line[place + 1])
        for measure in MEASURES
        for scaled in SCALED
        for line in lines(outcome, scaled)
        for place in range(len(line) - 1)
    ]
    return _tested(outcome, wanted)


def ends(outcome: Outcome) -> list[Effect]:
    """From the smallest to the largest end of every line, for both measures: those of `claims` and the others."""
    claimed = [effect for claim in claims(outcome) for effect in claim.lines]
    wanted = [
        (measure, scaled, line[0], line[-1])
        for measure in MEASURES
        for scaled in SCALED
        for line in lines(outcome, scaled)
        if (measure, scaled) not in CLAIMS and len(line) > 1
    ]
    return claimed + _tested(outcome, wanted)


def claims(outcome: Outcome) -> list[Claim]:
    """The paper's two claims, with the comparisons of both corrected together."""
    wanted = [
        (measure, scaled, line[0], line[-1])
        for measure, scaled in CLAIMS
        for line in lines(outcome, scaled)
        if len(line) > 1
    ]
    found = _tested(outcome, wanted)
    return [
        Claim(measure, scaled, [effect for effect in found if (effect.measure, effect.scaled) == (measure, scaled)])
        for measure, scaled in CLAIMS
    ]


def lines(outcome: Outcome, scaled: str) -> Iterator[list[Cell]]:
    """The rows or columns of the matrix along which one side grows, without bases alone."""
    if scaled == "fine-tuning":
        yield from ([Cell(base, pair) for pair in outcome.pairs] for base in outcome.bases)
    else:
        yield from ([Cell(base, pair) for base in outcome.bases] for pair in outcome.pairs)


@dataclass(frozen=True, slots=True)
class Recovered:
    """What a blend of a base and a pair of another size closes of a gap; None where the gap is not surely one."""

    blend: Cell
    start: Cell
    end: Cell
    measure: str
    fraction: Fraction | None


def recovered(outcome: Outcome) -> list[Recovered]:
    """For every small and large size with tuned models: what up-scaling closes of two gaps, by measure.

    From tuned small to tuned large: what is won over what a user of the small model has. And from the large base alone
    to tuned large, which is the gap of proxy-tuning (arXiv 2401.08565).
    """
    found = []
    for place, small in enumerate(outcome.pairs):
        for large in outcome.pairs[place + 1 :]:
            blend, end = Cell(large, small), Cell(large, large)
            for start in (Cell(small, small), Cell(large)):
                for measure in (*MEASURES, "both"):
                    rows = [outcome.of(measure, cell) for cell in (start, blend, end)]
                    found.append(Recovered(blend, start, end, measure, gap_closed(*rows)))
    return found


def _tested(outcome: Outcome, wanted: Sequence[tuple[str, str, Cell, Cell]]) -> list[Effect]:
    """One effect for each measure, scaled side, first and last cell; all corrected for their number."""
    compared = [
        compare("", _rights(outcome, measure, end), _rights(outcome, measure, start))
        for measure, _, start, end in wanted
    ]
    alpha = ALPHA / max(1, len(wanted))
    found = []
    for what, one, corrected in zip(wanted, compared, holm([one.p for one in compared]), strict=True):
        low, high = paired_interval(one.gained, one.lost, one.asked, alpha=alpha)
        found.append(Effect(*what, one, corrected, low, high))
    return found


def _rights(outcome: Outcome, measure: str, cell: Cell) -> list[bool]:
    return [bool(score > 0.5) for score in outcome.of(measure, cell)]
