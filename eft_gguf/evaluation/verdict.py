"""Is blending worth it? The rule by which the gate decides, and its reason in a sentence.

A reply is a success if it is right and in the form, as far as the prompt says what these are. On the prompts that were
not used for choosing, the blend is compared with each rival: every model alone, the base that is shown examples, and
the base that is asked for the form.

* not worth it: over one rival the blend gains less than 5 points. That is the upper bound of the 95 % interval of the
  paired difference (Agresti and Min). Or one rival has as many successes, on 20 prompts or more: a rival runs one model
  instead of three, so the blend must do better.
* worth it: else, if it has more successes than every rival, each by McNemar's exact test at 0.05. All must hold, so no
  correction for their number is due.
* undecided: else.

The first rule's first half holds wrongly for 2.5 % of blends that are just worth it, at most, and for each rival. Its
second half errs on the side of the cheaper system: few prompts may miss a blend that is better by a little.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from eft_gguf.evaluation.statistics import mcnemar, paired_interval

ALPHA = 0.05
ENOUGH = 20
"""Prompts from which on a rival with as many successes counts as being as good."""
MARGIN = 0.05
"""The gain that blending must bring to be worth the trouble of running three models."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """The blend against one rival on the same prompts: successes of each, and of one without the other."""

    rival: str
    asked: int
    blend_right: int
    rival_right: int
    gained: int
    lost: int

    @property
    def p(self) -> float:
        """Of McNemar's exact test."""
        return mcnemar(self.gained, self.lost)

    @property
    def interval(self) -> tuple[float, float]:
        """Of the difference of the shares, 95 %."""
        return paired_interval(self.gained, self.lost, self.asked)

    @property
    def wins(self) -> bool:
        """Whether the blend surely has more successes."""
        return self.gained > self.lost and self.p < ALPHA

    @property
    def gains_too_little(self) -> bool:
        """Whether the blend surely gains less than the margin."""
        return self.interval[1] < MARGIN


@dataclass(frozen=True, slots=True)
class Verdict:
    """word: "worth it", "not worth it" or "undecided".  reason: a sentence without capital and full stop."""

    word: str
    reason: str


def compare(rival: str, blend: Sequence[bool], other: Sequence[bool]) -> Comparison:
    """blend, other: successes on the same prompts."""
    pairs = list(zip(blend, other, strict=True))
    gained = sum(ours and not theirs for ours, theirs in pairs)
    lost = sum(theirs and not ours for ours, theirs in pairs)
    return Comparison(rival, len(pairs), sum(blend), sum(other), gained, lost)


def decide(blend: Sequence[bool], rivals: Mapping[str, Sequence[bool]]) -> tuple[Verdict, list[Comparison]]:
    """The verdict by the rule above, and the comparisons it rests on. All sequences are of the same prompts."""
    found = [compare(rival, blend, other) for rival, other in rivals.items()]
    if not blend:
        return Verdict("undecided", "no prompt to report on says what a good reply is"), found
    best = max(found, key=lambda one: (one.rival_right, -one.interval[1]))
    level = [one for one in found if one.gains_too_little]
    if level:
        most = max(level, key=lambda one: one.rival_right)
        if most.lost > most.gained and most.p < ALPHA:
            return Verdict("not worth it", f"{_named(most)} does better: {_counts(most)}, {_p(most)}"), found
        low, high = (100 * bound for bound in most.interval)
        reason = f"the blend gains less than {100 * MARGIN:.0f} points over {_named(most)}: {_counts(most)}"
        return Verdict("not worth it", f"{reason}, a difference of {low:+.1f} to {high:+.1f} points"), found
    as_good = [one for one in found if one.rival_right >= one.blend_right and one.asked >= ENOUGH]
    if as_good:
        most = max(as_good, key=lambda one: one.rival_right)
        reason = f"{_named(most)} is as good, and runs one model instead of three: {_counts(most)}"
        return Verdict("not worth it", reason), found
    if all(one.wins for one in found):
        return Verdict("worth it", f"the blend does better than every model alone: {_counts(best)}, {_p(best)}"), found
    least = max(found, key=lambda one: (not one.wins, one.rival_right))
    low, high = (100 * bound for bound in least.interval)
    reason = f"{least.asked} prompts are too few to tell the blend from {_named(least)}: {_counts(least)}"
    return Verdict("undecided", f"{reason}, a difference of {low:+.0f} to {high:+.0f} points"), found


def _named(one: Comparison) -> str:
    return one.rival if "," in one.rival else f"{one.rival} alone"


def _counts(one: Comparison) -> str:
    return f"{one.blend_right} successes in {one.asked} against {one.rival_right} of {one.rival}"


def _p(one: Comparison) -> str:
    return f"p = {one.p:.2g}"
