"""How often drafts are taken, by how sure the drafter was of them: known before the others have read them.

What a small model is sure of, the large one mostly says too. The sureness is the largest probability in the
distribution that a draft comes from, not that of the token which came: a choice by the token would bend the outcome.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, field

from eft_gguf.engine.draft_length import WORTH, Acceptance

EDGES = (0.3, 0.5, 0.7, 0.85, 0.95, 0.99)
"""Bounds of the classes of sureness."""

PRIORS = (0.2, 0.4, 0.6, 0.78, 0.9, 0.97, 0.99)
"""Where each begins: as often as the drafter thinks."""

TRIAL, LONGEST_PAUSE = 8.0, 64
"""Steps' worth of rounds before the first pause, and steps in which nothing is drafted, at most."""

BEGINNING, OVER = 5.0, 200.0
"""Steps without drafts: how many the gain of 1 counts for at first, and how many the average is over."""


@dataclass(slots=True)
class Gain:
    """Tokens for the cost of a step without drafts, over the last `OVER` such steps; 1 without drafts.

    What a draft costs could bring so many tokens elsewhere: by that measure it must be worth it (it is the rule that
    makes a ratio of sums as large as can be, after Dinkelbach 1967).
    """

    tokens: float = BEGINNING
    steps: float = BEGINNING

    @property
    def rate(self) -> float:
        """At least 1: that is to be had at any time."""
        return max(1.0, self.tokens / self.steps)

    def see(self, tokens: int, steps: float) -> None:
        """A round brought so many tokens, and cost so many steps."""
        self.tokens += tokens
        self.steps += steps
        if self.steps > OVER:
            self.tokens *= OVER / self.steps
            self.steps = OVER


class Confidence:
    """Acceptance by class of sureness, learnt from all replies of one kind."""

    def __init__(self) -> None:
        self._classes = [Acceptance(prior) for prior in PRIORS]

    def expected(self, sureness: float) -> float:
        """How likely a draft of this sureness is to be taken."""
        return self._classes[bisect_right(EDGES, sureness)].rate

    def see(self, sureness: float, overlap: float) -> None:
        """A draft of this sureness was taken with this probability."""
        self._classes[bisect_right(EDGES, sureness)].see(overlap)


@dataclass(slots=True)
class Way:
    """How sequences of one kind (a blend, greedy or drawn) are drafted on, and what was learnt from them.

    drafter: None where no model drafts.  looks_up: whether drafts may be looked up.  Both go by the models alone, and
    not by what decodes cost, for they decide what a seed gives; drafts_pay and lookups_pay go by costs.
    obstacle: why nothing is drafted, if nothing is.  pause: steps for which drafts are not considered.
    """

    drafter: int | None
    looks_up: bool
    drafts_pay: bool
    lookups_pay: bool
    obstacle: str
    acceptance: Acceptance = field(default_factory=Acceptance)
    confidence: Confidence = field(default_factory=Confidence)
    gain: Gain = field(default_factory=Gain)
    pause: int = 0
    patience: int = 1

    def see_round(self, tokens: int, plain_steps: float) -> None:
        """A step in which drafts were considered brought a sequence so many tokens, at that cost in plain steps.

        Where drafting brings next to nothing, considering it would cost more than that: it then pauses for a while,
        and for twice as long the next time.
        """
        self.gain.see(tokens, plain_steps)
        if self.gain.steps < BEGINNING + TRIAL or self.gain.rate >= WORTH:
            self.patience = 1
        else:
            self.patience = min(2 * self.patience, LONGEST_PAUSE)
            self.pause = self.patience
