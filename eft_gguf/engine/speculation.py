"""Speculation: drafts of the tokens to come, by the tuned model or looked up in the text, for one batch to verify.

In a round the drafter decodes a sequence's last token and then its own drafts, one by one; the engine's step then
decodes last token and drafts on all other members in one batch, and the last draft on the drafter, so that a round
whose drafts are all taken brings one token more. `Sampler.check` makes the outcome a draw from the blend.

A sequence that has a drafter draws every token by way of a draft, also where none was made ahead: the drafter's logits
are at hand then. So a seed gives the same tokens whatever the lengths of the rounds (but for drafts that are looked up,
and near ties, since llama.cpp's logits depend on the size of a batch). And its acceptance is known before it drafts.
"""

from __future__ import annotations

from collections.abc import Sequence as Seq
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eft_gguf.blend.equation import Filter, members_needed
from eft_gguf.engine.draft_length import LIMIT, Acceptance, Costs, Prospect, best_length, round_seconds
from eft_gguf.engine.ensemble import Ensemble, Part
from eft_gguf.engine.sampler import Draft
from eft_gguf.engine.schedule import Drafts, Plan
from eft_gguf.engine.sequence import Sequence
from eft_gguf.engine.slots import Slot, Slots
from eft_gguf.errors import OptionError

AUTO, OFF = "auto", "off"
"""Settings beside a number of drafts."""

STEPS_OF_ACCEPTANCE = 50
"""Acceptances are told apart to a 50th, so that what was worked out for one can be used again."""

MOST_REMEMBERED = 4096


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


@dataclass(slots=True)
class _Chance:
    """A sequence that can be drafted on in this step, how, and what was looked up for it."""

    slot: Slot
    sequence: Sequence
    prospect: Prospect
    looked_up: list[int]
    token: int
    """The last one known: the sequence's, then its drafts'."""


class Speculation:
    """Chooses how many tokens to draft, and drafts them.

    length: drafts a round, where no `costs` are given; with costs, as many as bring the most tokens a second.
    rolls_back: by member, whether its cache can be cut back to an earlier token.
    """

    def __init__(
        self, ensemble: Ensemble, *, rolls_back: Seq[bool], length: int | None = None, costs: Costs | None = None
    ) -> None:
        assert (length is None) != (costs is None)
        self.length = length
        self.costs = costs
        self.cannot_roll_back = tuple(name for name, able in zip(ensemble.names, rolls_back, strict=True) if not able)
        self._ensemble = ensemble
        self._rolls_back = tuple(rolls_back)
        self._rows: list[NDArray[np.float32]] = []
        self._ways: dict[object, tuple[int | None, bool, str]] = {}
        self._chosen: dict[object, tuple[int, float, float]] = {}

    def as_dict(self, factors: Seq[float]) -> dict[str, Any]:
        """The setting, what is in its way, and the measured costs in milliseconds; `pays` in a blend of `factors`."""
        members = members_needed(factors, Filter())
        tuned = [member for member in self._ensemble.tuned if factors[member] > 0]
        return {
            "setting": AUTO if self.length is None else self.length,
            "pays": any(self.pays(members, drafter) for drafter in [*tuned, None]),
            "cannot_roll_back": list(self.cannot_roll_back),
            "decode_milliseconds": None
            if self.costs is None
            else {
                name: [round(1e3 * float(seconds), 4) for seconds in curve[1:]]
                for name, curve in zip(self._ensemble.names, self.costs.curves, strict=True)
            },
            "step_milliseconds": None if self.costs is None else round(1e3 * self.costs.step, 4),
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
        return self._way(sequence)[0]

    def draft(self, plan: Plan, slots: Slots) -> dict[str, float]:
        """Draft for the sequences of a plan as far as it pays, and put the drafts into it. The seconds, by member."""
        seconds: dict[str, float] = {}
        chances = self._chances(plan, slots)
        length, plan.plain_steps = self._length(plan, chances)
        if length > 0:
            self._look_up(plan, chances, length)
            self._decode_ahead(plan, chances, length, seconds)
            _extend(plan)
        return seconds

    def at_hand(self, sequence: Sequence, members: Seq[int], rows: Seq[NDArray[np.float32]]) -> Draft | None:
        """A draft of the next token, from the drafter's own row among those of `members`; None without a drafter."""
        drafter = self.drafter(sequence)
        return None if drafter is None else sequence.sampler.draft(rows[members.index(drafter)], 0)

    # ---- what may be drafted, and how much

    def _chances(self, plan: Plan, slots: Slots) -> list[_Chance]:
        """Those that are to get a token by one more token decoded, and may get several."""
        reading = {part.sequence for parts in plan.parts for part in parts if len(part.tokens) > 1}
        chances = []
        for sequence in plan.ready:
            assert sequence.slot is not None
            drafter, may_look_up, _ = self._way(sequence)
            if sequence.slot in reading or (drafter is None and not may_look_up):
                continue
            most = min(LIMIT, self._ensemble.ctx - sequence.length - 1)
            if sequence.max_tokens is not None:
                most = min(most, sequence.max_tokens - len(sequence.generated) - 1)
            ids = sequence.ids[self._ensemble.tuned[0]]
            looked_up = self._looked_up(sequence, ids, most) if may_look_up and most > 0 else []
            prospects = []
            members = tuple(sequence.members)
            if drafter is not None:
                prospects.append(Prospect(members, drafter, most, sequence.acceptance))
            if looked_up:
                prospects.append(Prospect(members, None, most, sequence.lookup_acceptance))
            if most > 0 and prospects:
                slot = slots[sequence.slot]
                chances.append(_Chance(slot, sequence, self._better(prospects), looked_up, ids[-1]))
        return chances

    @staticmethod
    def _looked_up(sequence: Sequence, ids: list[int], most: int) -> list[int]:
        """What may follow by the text itself. Whether it was right counts, also where it was not tried."""
        if sequence.foreseen is not None:
            place, token = sequence.foreseen
            sequence.lookup_acceptance.see(float(ids[place] == token))
        found = sequence.lookup.continuation(ids, most)
        sequence.foreseen = (len(ids), found[0]) if found else None
        return found

    def _way(self, sequence: Sequence) -> tuple[int | None, bool, str]:
        """(who drafts, whether drafts may be looked up, what stands in the way if anything does)."""
        key = sequence.factors, sequence.filter
        if key not in self._ways:
            self._ways[key] = self._find_way(sequence)
        sequence.timings.not_drafted = self._ways[key][2]
        return self._ways[key]

    def _find_way(self, sequence: Sequence) -> tuple[int | None, bool, str]:
        members = sequence.members
        stuck = [self._ensemble.names[member] for member in members if not self._rolls_back[member]]
        if stuck:
            return None, False, f"{' and '.join(stuck)} cannot roll back"
        factors = sequence.factors
        tuned = [member for member in self._ensemble.tuned if factors[member] > 0]
        drafter = max(tuned, key=lambda member: factors[member], default=None)
        # Alone in its blend it would draft what it says: that is decoding token by token.
        if drafter is not None and (len(members) == 1 or not self.pays(members, drafter)):
            drafter = None
        may_look_up = self.pays(members, None)
        return drafter, may_look_up, "" if may_look_up or drafter is not None else "drafts would not pay"

    def _better(self, prospects: list[Prospect]) -> Prospect:
        """Of two ways to draft for a sequence the one that promises more."""
        if len(prospects) == 1:
            return prospects[0]
        by_model, by_lookup = prospects
        if self.costs is None:
            return by_lookup if by_lookup.acceptance.rate >= by_model.acceptance.rate else by_model
        return max(prospects, key=lambda prospect: self._choice([prospect], prospect.most, ())[1])

    def _length(self, plan: Plan, chances: list[_Chance]) -> tuple[int, float]:
        """(drafts for each, seconds as a multiple of those without); no more than a batch has room for."""
        plain = 0.0 if self.costs is None else 1.0
        if not chances:
            return 0, plain
        used = [sum(len(part.tokens) for part in parts) for parts in plan.parts]
        room = min(self._ensemble.batch - max(used), self._ensemble.outputs - len(plan.ready))
        most = min(LIMIT, room // len(chances), max(chance.prospect.most for chance in chances))
        if most < 1:
            return 0, plain
        prospects = [chance.prospect for chance in chances]
        beside = tuple(
            count - sum(member in prospect.members for prospect in prospects) for member, count in enumerate(used)
        )
        if self.costs is None:
            assert self.length is not None
            return min(self.length, most), plain
        length, _, seconds = self._choice(prospects, most, beside)
        return length, seconds

    def _choice(self, prospects: list[Prospect], most: int, beside: tuple[int, ...]) -> tuple[int, float, float]:
        """(drafts a sequence, tokens a second, seconds of a round as a share of one without drafts)."""
        rates = [round(prospect.acceptance.rate * STEPS_OF_ACCEPTANCE) for prospect in prospects]
        ways = [(prospect.members, prospect.drafter, prospect.most) for prospect in prospects]
        key = (*rates, *ways, most, beside)
        if key not in self._chosen:
            assert self.costs is not None
            if len(self._chosen) >= MOST_REMEMBERED:
                self._chosen.clear()
            told_apart = [
                Prospect(*way, Acceptance(rate / STEPS_OF_ACCEPTANCE)) for way, rate in zip(ways, rates, strict=True)
            ]
            length, rate = best_length(told_apart, self.costs, most, beside)
            seconds = round_seconds(told_apart, self.costs, most, beside)
            self._chosen[key] = length, rate, float(seconds[length] / seconds[0])
        return self._chosen[key]

    # ---- drafting

    def _look_up(self, plan: Plan, chances: list[_Chance], length: int) -> None:
        for chance in chances:
            if chance.prospect.drafter is None:
                tokens = chance.looked_up[: min(length, chance.prospect.most)]
                ends = [at for at, token in enumerate(tokens, 1) if token in self._ensemble.end_tokens]
                drafts = [Draft.certain(token) for token in tokens[: min(ends, default=len(tokens))]]
                plan.drafts[chance.slot.index] = Drafts(None, drafts)
                chance.sequence.foreseen = None

    def _decode_ahead(self, plan: Plan, chances: list[_Chance], length: int, seconds: dict[str, float]) -> None:
        """Let drafters draft, all sequences of a drafter in one batch for each place."""
        drafting = [chance for chance in chances if chance.prospect.drafter is not None]
        for chance in drafting:
            plan.drafts[chance.slot.index] = Drafts(chance.prospect.drafter)
        end_tokens, taken = self._ensemble.end_tokens, 0
        for ahead in range(length):
            by_drafter: dict[int, list[_Chance]] = {}
            for chance in drafting:
                if chance.prospect.drafter is not None and ahead < chance.prospect.most:
                    by_drafter.setdefault(chance.prospect.drafter, []).append(chance)
            for member, own in by_drafter.items():
                parts = [Part(each.slot.index, len(each.slot.cached[member]), [each.token], 1) for each in own]
                name = self._ensemble.names[member]
                seconds[name] = seconds.get(name, 0.0) + self._ensemble.decode(member, parts)
                for each in own:
                    each.slot.cached[member].append(each.token)
                for each, row in zip(own, self._ensemble.rows(member), strict=True):
                    drafts = plan.drafts[each.slot.index]
                    drafts.rows.append(self._copy(row, taken))
                    taken += 1
                    try:
                        drafts.tokens.append(each.sequence.sampler.draft(drafts.rows[-1], ahead))
                        each.token = drafts.tokens[-1].token
                    except Exception as error:
                        each.sequence.error, each.sequence.finish_reason = error, "error"
                        plan.drop(each.sequence)
            drafting = [
                each
                for own in by_drafter.values()
                for each in own
                if each.token not in end_tokens and each.sequence.finish_reason is None
            ]

    def _copy(self, row: NDArray[np.float32], number: int) -> NDArray[np.float32]:
        """A copy of a row in an array that is used again in the next round."""
        if number == len(self._rows):
            self._rows.append(np.empty(self._ensemble.n_vocab, np.float32))
        np.copyto(self._rows[number], row[: self._ensemble.n_vocab])
        return self._rows[number]


def _extend(plan: Plan) -> None:
    """Have the drafts decoded with the tokens before them; on the drafter the last one alone is left."""
    for member, parts in enumerate(plan.parts):
        for at, part in enumerate(parts):
            drafts = plan.drafts.get(part.sequence)
            if drafts is None:
                continue
            tokens = [draft.token for draft in drafts.tokens]
            if member == drafts.drafter:
                parts[at] = Part(part.sequence, part.position + len(tokens), tokens[-1:], 1)
            else:
                parts[at] = Part(part.sequence, part.position, [*part.tokens, *tokens], len(tokens) + 1)
