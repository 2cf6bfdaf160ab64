"""Drafts for the sequences of a step: looked up, or decoded ahead on the drafters, and put into the step's plan."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as Seq
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from eft_gguf.engine.confidence import Way
from eft_gguf.engine.draft_length import Prospect
from eft_gguf.engine.ensemble import Ensemble, Part
from eft_gguf.engine.lookup import Ahead
from eft_gguf.engine.sampler import Draft
from eft_gguf.engine.schedule import NO_DRAFTS, Drafts, Plan
from eft_gguf.engine.sequence import Sequence
from eft_gguf.engine.slots import Slot


@dataclass(slots=True)
class Chance:
    """A sequence that can be drafted on in this step: how, what was looked up, and its last token, then its drafts'.

    ahead: what could be looked up after the drafts; None for a greedy reply, which is the same whatever drafts.
    """

    slot: Slot
    sequence: Sequence
    way: Way
    prospect: Prospect
    looked_up: list[int]
    token: int
    ahead: Ahead | None = None
    forced: bool = False
    """Whether `looked_up` is what a constraint forces."""
    taken: float = 1.0
    """How likely all drafts so far are to be taken."""


Worth = Callable[[Chance, Draft, int], bool]
"""Whether one more draft is worth it, after so many."""


class Drafting:
    """Makes drafts on an ensemble. Arrays for copies of logits are used again from step to step."""

    def __init__(self, ensemble: Ensemble) -> None:
        self._ensemble = ensemble
        self._rows: list[NDArray[np.float32]] = []

    def look_up(self, plan: Plan, chances: Seq[Chance], length: int) -> None:
        """Put into a plan what was looked up, up to an end token."""
        for chance in chances:
            tokens = chance.looked_up[: min(length, chance.prospect.most)]
            if chance.prospect.drafter is None and tokens:
                ends = [at for at, token in enumerate(tokens, 1) if token in self._ensemble.end_tokens]
                drafts = [
                    Draft.certain(token, looked_up=not chance.forced, forced=chance.forced)
                    for token in tokens[: min(ends, default=len(tokens))]
                ]
                plan.drafts[chance.slot.index] = Drafts(None, drafts)
                chance.sequence.foreseen = None

    def decode_ahead(
        self, plan: Plan, chances: Seq[Chance], most: int, worth: Worth, seconds: dict[str, float]
    ) -> None:
        """Let drafters draft, all sequences of a drafter in one batch for each place, as long as one more is worth it.

        Their last tokens they have to decode in any case: whether to draft at all is asked after that.  seconds: by
        member, to which those of the decodes are added.
        """
        drafting = [chance for chance in chances if chance.prospect.drafter is not None]
        for chance in drafting:
            plan.drafts[chance.slot.index] = Drafts(chance.prospect.drafter)
        copies = 0
        while drafting:
            by_drafter: dict[int, list[Chance]] = {}
            for chance in drafting:
                assert chance.prospect.drafter is not None
                by_drafter.setdefault(chance.prospect.drafter, []).append(chance)
            drafting = []
            for member, own in by_drafter.items():
                parts = [Part(each.slot.index, len(each.slot.cached[member]), [each.token], 1) for each in own]
                name = self._ensemble.names[member]
                seconds[name] = seconds.get(name, 0.0) + self._ensemble.decode(member, parts)
                for each in own:
                    each.slot.cached[member].append(each.token)
                for each, row in zip(own, self._ensemble.rows(member), strict=True):
                    plan.drafts[each.slot.index].rows.append(self._copy(row, copies))
                    copies += 1
                    if self._goes_on(plan, each, min(most, each.prospect.most), worth):
                        drafting.append(each)

    def _goes_on(self, plan: Plan, chance: Chance, most: int, worth: Worth) -> bool:
        """Draft one token from the drafter's last row, if that is worth it; whether the drafter is to decode it."""
        drafts = plan.drafts[chance.slot.index]
        made = len(drafts.tokens)
        if chance.ahead is not None and chance.ahead.repeats:
            return False
        try:
            draft = chance.sequence.sampler.draft(drafts.rows[-1], made)
        except Exception as error:
            chance.sequence.error, chance.sequence.finish_reason = error, "error"
            plan.drop(chance.sequence)
            return False
        if not worth(chance, draft, made):
            drafts.next = draft
            return False
        drafts.tokens.append(draft)
        chance.token = draft.token
        if chance.ahead is not None:
            chance.ahead.push(draft.token)
        return made + 1 < most and draft.token not in self._ensemble.end_tokens

    def _copy(self, row: NDArray[np.float32], number: int) -> NDArray[np.float32]:
        """A copy of a row in an array that is used again in the next round."""
        if number == len(self._rows):
            self._rows.append(np.empty(self._ensemble.n_vocab, np.float32))
        np.copyto(self._rows[number], row[: self._ensemble.n_vocab])
        return self._rows[number]


def extend(plan: Plan) -> None:
    """Have the drafts decoded with the tokens before them; on the drafter the last one alone is left, or nothing."""
    for member, parts in enumerate(plan.parts):
        extended = []
        for part in parts:
            drafts = plan.drafts.get(part.sequence, NO_DRAFTS)
            tokens = [draft.token for draft in drafts.tokens]
            if member != drafts.drafter:
                extended.append(Part(part.sequence, part.position, [*part.tokens, *tokens], len(tokens) + part.outputs))
            elif not drafts.complete:
                extended.append(Part(part.sequence, part.position + len(tokens), tokens[-1:], 1))
        parts[:] = extended
