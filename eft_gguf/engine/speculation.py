"""Speculation: drafts of the tokens to come, by the tuned model or looked up in the text, for one batch to verify.

In a round the drafter decodes a sequence's last token and then its own drafts, one by one; the engine's step then
decodes last token and drafts on all other members in one batch, and the last draft on the drafter, so that a round
whose drafts are all taken brings one token more. `Sampler.check` makes the outcome a draw from the blend.

A sequence that has a drafter draws every token by way of a draft, also where none was made ahead: the drafter's logits
are at hand then. So a seed gives the same tokens whatever the lengths of the rounds, and whatever decodes cost (but for
near ties, since llama.cpp's logits depend on the size of a batch). And its acceptance is known before it drafts.
"""

from __future__ import annotations

from collections.abc import Sequence as Seq
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eft_gguf.blend.equation import Filter, members_needed
from eft_gguf.engine.confidence import Way
from eft_gguf.engine.draft_length import LIMIT, Acceptance, Costs, Prospect, best_length, round_seconds
from eft_gguf.engine.drafting import Chance, Drafting, extend
from eft_gguf.engine.ensemble import Ensemble
from eft_gguf.engine.sampler import Draft
from eft_gguf.engine.schedule import Plan
from eft_gguf.engine.sequence import Sequence
from eft_gguf.engine.slots import Slots
from eft_gguf.errors import OptionError

AUTO, OFF = "auto", "off"
"""Settings beside a number of drafts."""

WOULD_NOT_PAY = "they would not pay"

STEPS_OF_ACCEPTANCE = 50
"""Acceptances are told apart to a 50th, so that what was worked out for one can be used again."""

MOST_REMEMBERED = 4096

FORCED_RATE = 0.98
"""How often a token is taken that a constraint forces: only another cut of the same text could come in its place."""


def checked_setting(value: str | int) -> str | int:
    """`auto`, `off` or a number of drafts from 1 on. Raises OptionError for anything else."""
    if isinstance(value, str) and value.isdecimal():
        value = int(value)
    if value in (AUTO, OFF):
        return value
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= LIMIT:
        raise OptionError(
            f"speculate must be auto, off or a number from 0 to {LIMIT}, not {value!r}", hint="leave it out for auto"
        )
    return value or OFF


@dataclass(frozen=True, slots=True)
class _Choice:
    """What a step's sequences can expect of drafts of one length for all.

    length: the best.  rate: tokens a second at that.  seconds: of a round, by length.  hopeful: whether any would pay
    if all were taken.
    """

    length: int
    rate: float
    seconds: NDArray[np.float64]
    hopeful: bool


class Speculation:
    """Chooses how many tokens to draft, and drafts them.

    length: drafts a round, where no `costs` are given; with costs, as many as bring the most tokens a second.
    rolls_back: by member, whether its cache can be cut back to an earlier token.  drawn: whether to draft for replies
    that are drawn, too: with tiny models the drawing of drafts takes longer than what they save.
    """

    def __init__(
        self,
        ensemble: Ensemble,
        *,
        rolls_back: Seq[bool],
        length: int | None = None,
        costs: Costs | None = None,
        drawn: bool = True,
    ) -> None:
        assert (length is None) != (costs is None)
        self.length = length
        self.costs = costs
        self.cannot_roll_back = tuple(name for name, able in zip(ensemble.names, rolls_back, strict=True) if not able)
        self._ensemble = ensemble
        self._rolls_back = tuple(rolls_back)
        self._drawn = drawn
        self._drafting = Drafting(ensemble)
        self._ways: dict[object, Way] = {}
        self._choices: dict[object, _Choice] = {}

    def as_dict(self, factors: Seq[float]) -> dict[str, Any]:
        """The setting, what is in its way, and the measured costs in milliseconds; `pays` in a blend of `factors`."""
        members = members_needed(factors, Filter())
        tuned = [member for member in self._ensemble.tuned if factors[member] > 0]
        return {
            "setting": AUTO if self.length is None else self.length,
            "pays": all(self._rolls_back[member] for member in members)
            and any(self.pays(members, drafter) for drafter in [*tuned, None]),
            "cannot_roll_back": list(self.cannot_roll_back),
            "decode_milliseconds": None
            if self.costs is None
            else {
                name: [round(1e3 * float(seconds), 4) for seconds in curve[1:]]
                for name, curve in zip(self._ensemble.names, self.costs.curves, strict=True)
            },
            "step_milliseconds": None if self.costs is None else round(1e3 * self.costs.step, 4),
            "sequence_milliseconds": None if self.costs is None else round(1e3 * self.costs.sequence, 4),
            "draft_milliseconds": None if self.costs is None else round(1e3 * self.costs.draft, 4),
        }

    def pays(self, members: Seq[int], drafter: int | None) -> bool:
        """Whether any drafts would be worth it if every one were taken."""
        if self.length is not None:
            return self.length > 0
        assert self.costs is not None
        return best_length([Prospect(tuple(members), drafter, LIMIT, Acceptance(1.0))], self.costs, LIMIT)[0] > 0

    def drafter(self, sequence: Sequence) -> int | None:
        """The member that drafts for a sequence; None where none does."""
        return self._way(sequence).drafter

    def draft(self, plan: Plan, slots: Slots) -> dict[str, float]:
        """Draft for the sequences of a plan as far as it pays, and put the drafts into it. The seconds, by member."""
        seconds: dict[str, float] = {}
        plan.plain_steps = 0.0 if self.costs is None else 1.0
        chances = self._chances(plan, slots)
        most = self._most(plan, chances)
        if most < 1:
            return seconds
        choice = self._choice([chance.prospect for chance in chances], most, _beside(plan, chances))
        if choice is not None and not (choice.length or choice.hopeful):
            return seconds
        length = most if choice is None else choice.length
        self._drafting.look_up(plan, chances, length)
        self._drafting.decode_ahead(plan, chances, most, partial(_is_worth_it, choice, most), seconds)
        extend(plan)
        if choice is not None:
            mean = sum(len(drafts.tokens) for drafts in plan.drafts.values()) / len(chances)
            plan.plain_steps = float(np.interp(mean, np.arange(most + 1), choice.seconds) / choice.seconds[0])
        return seconds

    def at_hand(self, sequence: Sequence, members: Seq[int], rows: Seq[NDArray[np.float32]]) -> Draft | None:
        """A draft of the next token by what is there: what is looked up where the text repeats, else from the drafter's
        row among those of `members`; None without either.
        """
        way = self._way(sequence)
        if not sequence.sampler.greedy and (forced := sequence.sampler.forced()):
            return Draft.certain(forced[0], forced=True)
        if sequence.sampler.greedy:
            # The token is the same without a draft, which only tells how often drafts would be taken.
            if way.pause or not way.drafts_pay:
                return None
        elif way.looks_up:
            ahead = sequence.lookup.ahead(sequence.ids[self._ensemble.tuned[0]])
            token = ahead.proposal() if ahead.repeats else None
            if token is not None:
                return Draft.certain(token, looked_up=True)
        drafter = way.drafter
        return None if drafter is None else sequence.sampler.draft(rows[members.index(drafter)], 0)

    def see(self, sequence: Sequence, draft: Draft, overlap: float) -> None:
        """Learn that a draft was taken with this probability; what a constraint forces teaches nothing."""
        if draft.forced:
            return
        if draft.looked_up:
            sequence.lookup_acceptance.see(overlap)
            return
        way = self._way(sequence)
        sequence.acceptance.see(overlap)
        way.acceptance.see(overlap)
        way.confidence.see(draft.sureness, overlap)

    def see_round(self, sequence: Sequence, tokens: int, plain_steps: float) -> None:
        """Learn what a step brought a sequence, and what it cost in steps without drafts."""
        way = self._way(sequence)
        if plain_steps and not way.pause and not way.obstacle:
            way.see_round(tokens, plain_steps)

    # ---- what may be drafted, and how much

    def _chances(self, plan: Plan, slots: Slots) -> list[Chance]:
        """Those that are to get a token by one more token decoded, and may get several."""
        possible = [(sequence, way) for sequence in plan.ready if not (way := self._way(sequence)).obstacle]
        if not possible:
            return []
        reading = {part.sequence for parts in plan.parts for part in parts if len(part.tokens) > 1}
        chances = []
        for sequence, way in possible:
            assert sequence.slot is not None
            most = min(LIMIT, self._ensemble.ctx - sequence.length - 1)
            if sequence.max_tokens is not None:
                most = min(most, sequence.max_tokens - len(sequence.generated) - 1)
            if sequence.slot in reading or most < 1:
                continue
            if way.pause:
                way.pause -= 1
                continue
            ids = sequence.ids[self._ensemble.tuned[0]]
            members = tuple(sequence.members)
            if way.lookups_pay and (forced := sequence.sampler.forced()[:most]):
                sure = Prospect(members, None, len(forced), Acceptance(FORCED_RATE))
                chances.append(Chance(slots[sequence.slot], sequence, way, sure, forced, ids[-1], forced=True))
                continue
            by_model = Prospect(members, way.drafter, most, sequence.acceptance)
            by_lookup = Prospect(members, None, most, sequence.lookup_acceptance)
            prospects, looked_up, ahead = [], [], None
            if sequence.sampler.greedy:
                looked_up = _looked_up(sequence, ids, most) if way.lookups_pay else []
                prospects = [by_lookup] if looked_up else []
            else:
                # Which of the two it is goes by the text alone: it decides what a seed gives.
                ahead = sequence.lookup.ahead(ids)
                if ahead.repeats:
                    looked_up = sequence.lookup.continuation(ids, most)
                    prospects = [by_lookup] if way.lookups_pay else []
            if way.drafter is not None and way.drafts_pay and (ahead is None or not ahead.repeats):
                prospects.append(by_model)
            if prospects:
                prospect = self._better(prospects)
                chances.append(Chance(slots[sequence.slot], sequence, way, prospect, looked_up, ids[-1], ahead))
        return chances

    def _way(self, sequence: Sequence) -> Way:
        key = sequence.factors, sequence.filter, sequence.sampler.greedy
        way = self._ways.get(key)
        if way is None:
            if len(self._ways) >= MOST_REMEMBERED:
                self._ways.clear()
            way = self._ways[key] = self._find_way(sequence)
        if not sequence.generated and not sequence.timings.rounds:
            # What was learnt of replies of this kind is where the next begins.
            sequence.acceptance.rate = way.acceptance.rate
        sequence.timings.not_drafted = way.obstacle
        return way

    def _find_way(self, sequence: Sequence) -> Way:
        members = sequence.members
        stuck = [self._ensemble.names[member] for member in members if not self._rolls_back[member]]
        if stuck:
            return Way(None, False, False, False, f"{' and '.join(stuck)} cannot roll back")
        if not (self._drawn or sequence.sampler.greedy):
            return Way(None, False, False, False, WOULD_NOT_PAY)
        factors = sequence.factors
        tuned = [member for member in self._ensemble.tuned if factors[member] > 0]
        drafter = max(tuned, key=lambda member: factors[member], default=None)
        # Alone in its blend it would draft what it says: that is decoding token by token.
        if len(members) == 1:
            drafter = None
        drafts_pay = drafter is not None and self.pays(members, drafter)
        lookups_pay = self.pays(members, None)
        obstacle = "" if drafts_pay or lookups_pay else WOULD_NOT_PAY
        return Way(drafter, True, drafts_pay, lookups_pay, obstacle)

    def _better(self, prospects: list[Prospect]) -> Prospect:
        """Of two ways to draft for a sequence the one that promises more."""
        if len(prospects) == 1:
            return prospects[0]
        by_lookup, by_model = prospects
        choices = [self._choice([prospect], prospect.most, ()) for prospect in prospects]
        if choices[0] is None or choices[1] is None:
            return by_lookup if by_lookup.acceptance.rate >= by_model.acceptance.rate else by_model
        return by_lookup if choices[0].rate > choices[1].rate else by_model

    def _most(self, plan: Plan, chances: list[Chance]) -> int:
        """Drafts that each may have: no more than llama.cpp has room for in a batch and for logits."""
        if not chances:
            return 0
        used = max(sum(len(part.tokens) for part in parts) for parts in plan.parts)
        room = min(self._ensemble.batch - used, self._ensemble.outputs - len(plan.ready))
        longest = max(chance.prospect.most for chance in chances)
        return min(LIMIT if self.length is None else self.length, room // len(chances), longest)

    def _choice(self, prospects: list[Prospect], most: int, beside: tuple[int, ...]) -> _Choice | None:
        """What these can expect; None without costs."""
        if self.costs is None:
            return None
        rates = [round(prospect.acceptance.rate * STEPS_OF_ACCEPTANCE) for prospect in prospects]
        ways = [(prospect.members, prospect.drafter, prospect.most) for prospect in prospects]
        key = (*rates, *ways, most, beside)
        found = self._choices.get(key)
        if found is None:
            if len(self._choices) >= MOST_REMEMBERED:
                self._choices.clear()
            told_apart = [Acceptance(rate / STEPS_OF_ACCEPTANCE) for rate in rates]
            known = [Prospect(*way, acceptance) for way, acceptance in zip(ways, told_apart, strict=True)]
            length, rate = best_length(known, self.costs, most, beside)
            best_case = [Prospect(*way, Acceptance(1.0)) for way in ways]
            found = _Choice(
                length,
                rate,
                round_seconds(known, self.costs, most, beside),
                best_length(best_case, self.costs, most, beside)[0] > 0,
            )
            self._choices[key] = found
        return found


def _looked_up(sequence: Sequence, ids: list[int], most: int) -> list[int]:
    """What may follow by the text itself. Whether it was right counts, also where it was not tried."""
    if sequence.foreseen is not None and sequence.foreseen[0] < len(ids):
        place, token = sequence.foreseen
        sequence.lookup_acceptance.see(float(ids[place] == token))
    found = sequence.lookup.continuation(ids, most)
    sequence.foreseen = (len(ids), found[0]) if found else None
    return found


def _is_worth_it(choice: _Choice | None, most: int, chance: Chance, draft: Draft, made: int) -> bool:
    """Whether one more draft, or it and others after it, is worth its time; always without costs."""
    if choice is None:
        return True
    taken = chance.taken * chance.way.confidence.expected(draft.sureness)
    # This one as likely as its sort is, those after it as drafts of this reply usually are.
    most = min(most, chance.prospect.most)
    usual = np.power(chance.sequence.acceptance.rate, np.arange(most - made))
    more = (choice.seconds[made + 1 : most + 1] - choice.seconds[made]) / choice.seconds[0]
    if not (taken * np.cumsum(usual) > chance.way.gain.rate * more).any():
        return False
    chance.taken = taken
    return True


def _beside(plan: Plan, chances: list[Chance]) -> tuple[int, ...]:
    """By member, the tokens of a plan that are not the last ones of those that may be drafted on."""
    return tuple(
        sum(len(part.tokens) for part in parts) - sum(member in chance.prospect.members for chance in chances)
        for member, parts in enumerate(plan.parts)
    )
