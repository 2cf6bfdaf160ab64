"""What a step decodes: a token of each reply under way, then prompts as far as there is room."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from eft_gguf.engine.ensemble import Ensemble, Part
from eft_gguf.engine.sampler import Draft
from eft_gguf.engine.sequence import Sequence
from eft_gguf.engine.slots import Slot, Slots, common_prefix

READ_BESIDE_REPLIES = 32
"""Tokens of prompts that a step reads while replies are under way: so much longer their next token may take. A quarter
of the default batch; on processors a decode of 32 tokens takes some 3 to 13 times as long as one of a single token."""

WORTH_WAITING = 16
"""Tokens that an earlier prompt is to read as well, from which on a prompt waits for them to be copied."""


@dataclass(slots=True)
class Drafts:
    """Tokens proposed for a sequence, one after the other.

    drafter: the member that they come from, None where they were looked up.  rows: copies of its logits before each,
    and after the last where it has read that one already.  next: a draft after the last that was not worth a decode.
    """

    drafter: int | None = None
    tokens: list[Draft] = field(default_factory=list)
    rows: list[NDArray[np.float32]] = field(default_factory=list)
    next: Draft | None = None

    @property
    def complete(self) -> bool:
        """Whether the drafter has given its logits after the last of them, too."""
        return len(self.rows) > len(self.tokens)


NO_DRAFTS = Drafts()


@dataclass(slots=True)
class Plan:
    """What one step decodes: the parts by member, the sequences that get tokens by it, all that are touched.

    drafts: by slot, what is to be verified beyond the next token.  plain_steps: what drafting and decoding it cost as a
    multiple of the step without drafts, by measured costs; 0 where none were measured.
    """

    parts: list[list[Part]]
    ready: list[Sequence] = field(default_factory=list)
    touched: list[Sequence] = field(default_factory=list)
    drafts: dict[int, Drafts] = field(default_factory=dict)
    plain_steps: float = 0.0

    def drop(self, sequence: Sequence) -> None:
        """Decode nothing further for a sequence, which gets no token by this step."""
        self.ready.remove(sequence)
        for parts in self.parts:
            parts[:] = [part for part in parts if part.sequence != sequence.slot]
        self.drafts = {slot: drafts for slot, drafts in self.drafts.items() if slot != sequence.slot}


def schedule(slots: Slots, ensemble: Ensemble) -> Plan:
    """The next step. Every reply under way gets its token; prompts are read first come, first served.

    Where replies are under way, prompts are read in small pieces, so that a long one never keeps them waiting. Where an
    earlier prompt that is still being read begins like a later one, the later one waits and gets a copy.
    """
    plan = Plan([[] for _ in ensemble.names])
    running = [slot for slot in slots if slot.sequence is not None and slot.sequence.finish_reason is None]
    running.sort(key=lambda slot: slot.last_used)
    pending = {slot.index: _pending(slot) for slot in running}
    replying = [slot for slot in running if all(count == 1 for count in pending[slot.index].values())]
    room = [ensemble.batch] * len(ensemble.names)
    for slot in replying:
        _take(plan, slot, pending[slot.index], room)
    if any(slot.sequence is not None and slot.sequence.generated for slot in replying):
        room = [min(left, READ_BESIDE_REPLIES) for left in room]
    reading: list[Slot] = []
    for slot in running:
        if slot in replying:
            continue
        if not any(_is_about_to_read_for(slot, earlier, ensemble) for earlier in reading):
            if slot.sequence is not None and not slot.sequence.generated:
                slots.share(slot, slot.sequence.ids)
                slot.sequence.count_cached(slot.cached)
            _take(plan, slot, _pending(slot), room)
        reading.append(slot)
    return plan


def _take(plan: Plan, slot: Slot, pending: dict[int, int], room: list[int]) -> None:
    """Put as much of what a sequence has pending into the plan as there is room for."""
    sequence = slot.sequence
    assert sequence is not None
    take = {member: min(count, room[member]) for member, count in pending.items()}
    if not any(take.values()):
        return
    ready = take == pending
    for member, count in take.items():
        # Logits last until the next decode only, so all members decode their last token in the same step.
        count -= int(not ready and count == pending[member])
        if count <= 0:
            continue
        start = len(slot.cached[member])
        plan.parts[member].append(Part(slot.index, start, sequence.ids[member][start : start + count], int(ready)))
        room[member] -= count
    plan.touched.append(sequence)
    if ready:
        plan.ready.append(sequence)


def _pending(slot: Slot) -> dict[int, int]:
    """Tokens still to be decoded, by the members that the blend looks at."""
    sequence = slot.sequence
    assert sequence is not None
    return {member: len(sequence.ids[member]) - len(slot.cached[member]) for member in sequence.members}


def _is_about_to_read_for(slot: Slot, earlier: Slot, ensemble: Ensemble) -> bool:
    """Whether an earlier sequence will soon hold a good deal of what this one has to read."""
    mine, other = slot.sequence, earlier.sequence
    assert mine is not None and other is not None
    if mine.generated:
        return False
    for member, pending in _pending(slot).items():
        # Of a recurrent model the other's state will not be the one that is wanted.
        if member not in other.members or ensemble.recurrent[member] or ensemble.separate[member]:
            continue
        shared = min(common_prefix(mine.ids[member], other.ids[member]), len(mine.ids[member]) - 1)
        gain = shared - len(slot.cached[member])
        if shared > len(earlier.cached[member]) and gain >= min(WORTH_WAITING, max(1, pending // 2)):
            return True
    return False
