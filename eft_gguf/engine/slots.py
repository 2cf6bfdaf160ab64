"""What the members have in their KV caches, slot by slot: whose it is, what of it a new prompt can use.

A slot is one of llama.cpp's sequences, in the context of every member. What a reply has decoded stays there for the
conversation's next turn, until the slot is wanted for another one: then the one that was used least recently goes.
A beginning that any slot holds, in use or not, is copied rather than decoded again; llama.cpp's cache notes for that
only that its cells belong to one sequence more. One beginning may be pinned: once read, it stays in a sequence of its
own for all slots to copy, whatever else they are used for.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping
from collections.abc import Sequence as Seq
from dataclasses import dataclass

from eft_gguf.engine.ensemble import Ensemble
from eft_gguf.engine.sequence import Sequence
from eft_gguf.errors import EFTError


@dataclass(slots=True)
class Slot:
    """A llama.cpp sequence.

    cached: the token ids that each member has in its KV cache.  prompt: how many of them, by member, the last prompt
    had.  sequence: who uses it.  last_used: when it was taken, by the count of such events.
    """

    index: int
    cached: list[list[int]]
    prompt: list[int]
    sequence: Sequence | None = None
    last_used: int = 0


class Slots:
    """The slots of an ensemble."""

    def __init__(self, ensemble: Ensemble) -> None:
        self._ensemble = ensemble
        members = range(len(ensemble.names))
        self._slots = [Slot(index, [[] for _ in members], [0 for _ in members]) for index in range(ensemble.sequences)]
        self._pinned = Slot(ensemble.sequences, [[] for _ in members], [0 for _ in members])
        self._to_pin: Seq[Seq[int]] = [[] for _ in members]
        self._clock = 0

    def __iter__(self) -> Iterator[Slot]:
        return iter(self._slots)

    def __getitem__(self, index: int) -> Slot:
        return self._slots[index]

    @property
    def free(self) -> list[Slot]:
        """Those that no sequence uses."""
        return [slot for slot in self._slots if slot.sequence is None]

    @property
    def pinned(self) -> Slot:
        """The sequence that keeps the pinned beginning, as far as it was read."""
        return self._pinned

    def pin(self, ids: Seq[Seq[int]]) -> None:
        """Pin a beginning, token ids by member, none for members without one: it stays as soon as a slot has read it.

        The ensemble must have room for it (`Ensemble.pinned`).
        """
        self._to_pin = [() if self._ensemble.separate[member] else own for member, own in enumerate(ids)]

    def to_pin(self, member: int, tokens: Seq[int]) -> Seq[int]:
        """The pinned beginning of a member, where `tokens` start with it and go on; else nothing."""
        wanted = self._to_pin[member]
        return wanted if len(tokens) > len(wanted) and list(tokens[: len(wanted)]) == list(wanted) else ()

    def keep_pinned(self, slot: Slot) -> None:
        """Keep what a slot has read of the pinned beginning, if it has read all of it."""
        for member, wanted in enumerate(self._to_pin):
            if len(self._pinned.cached[member]) == len(wanted) or self._ensemble.recurrent[member]:
                continue
            if slot.cached[member][: len(wanted)] == list(wanted):
                self._ensemble.copy(member, slot.index, self._pinned.index, 0, len(wanted))
                self._pinned.cached[member] = list(wanted)

    def take(self, ids: Seq[Seq[int]], members: Seq[int], *, besides: Container[int] = ()) -> Slot:
        """A free slot for prompts that begin with `ids`, by member, of which `members` are to be decoded now.

        It is the conversation's own where one goes on or its last reply is made again, else an empty one or the one
        used least recently. It holds what the ids begin with as far as any slot does, but for the last token, which is
        always decoded for its logits. Raises EFTError when all are in use.

        besides: the numbers of slots that are not to be taken.
        """
        free = [slot for slot in self.require_free() if slot.index not in besides]
        own = [slot for slot in free if self._goes_on(slot, ids, members)]
        if own:
            slot = max(own, key=lambda slot: sum(_usable(slot, member, ids[member]) for member in members))
        else:
            slot = min(free, key=lambda slot: (any(slot.cached), slot.last_used))
        for member, tokens in enumerate(ids):
            self.cut(slot, member, _usable(slot, member, tokens))
        self.share(slot, ids)
        slot.prompt = [len(tokens) for tokens in ids]
        self._clock += 1
        slot.last_used = self._clock
        return slot

    def closest(self, ids: Mapping[int, Seq[int]]) -> Slot:
        """The free slot that holds most of `ids`, by member, cut to what it holds. Raises as `take` does."""
        slot = max(self.require_free(), key=lambda slot: sum(_usable(slot, *item) for item in ids.items()))
        for member, tokens in ids.items():
            self.cut(slot, member, _usable(slot, member, tokens))
        return slot

    def share(self, slot: Slot, ids: Seq[Seq[int]]) -> None:
        """Copy into a slot what other slots hold of `ids` beyond its own."""
        for member, tokens in enumerate(ids):
            others = (other for other in (*self._slots, self._pinned) if other is not slot)
            length, _, source = max(
                ((self._offered(other, member, tokens), -other.index, other) for other in others), default=(0, 0, slot)
            )
            if length > len(slot.cached[member]):
                self._ensemble.copy(member, source.index, slot.index, len(slot.cached[member]), length)
                slot.cached[member] = list(tokens[:length])

    def cut(self, slot: Slot, member: int, position: int) -> None:
        """Drop what a member has cached from `position` on, or all of it where the model can't drop a part."""
        del slot.cached[member][self._ensemble.forget(member, slot.index, position) :]

    def trim(self, slot: Slot) -> None:
        """Drop what was decoded of drafts that its sequence did not take."""
        assert slot.sequence is not None
        for member, cached in enumerate(slot.cached):
            ids = slot.sequence.ids[member]
            known = len(ids) - 1
            if known < len(cached) and cached[known:] != ids[known:]:
                self.cut(slot, member, known)

    def recover(self) -> None:
        """Forget what a step left half done: an interrupt may come between any two of its lines.

        llama.cpp may hold tokens that are not on record, and members whose last token is decoded but not sampled
        from have lost its logits: they decode it again.
        """
        for slot in self._slots:
            for member, cached in enumerate(slot.cached):
                known = len(cached) if slot.sequence is None else len(slot.sequence.ids[member]) - 1
                self.cut(slot, member, min(known, len(cached)))
        for member, cached in enumerate(self._pinned.cached):
            if self._to_pin[member]:
                self.cut(self._pinned, member, len(cached))

    def require_free(self) -> list[Slot]:
        """The free slots. Raises EFTError where there is none."""
        if not self.free:
            raise EFTError(
                f"all {len(self._slots)} sequences are in use",
                hint="finish one first, or open with more sequences",
            )
        return self.free

    def _goes_on(self, slot: Slot, ids: Seq[Seq[int]], members: Seq[int]) -> bool:
        """Whether a prompt begins with the last one of a slot, so that hardly any other will ever need its cache."""
        shared = {member: common_prefix(slot.cached[member], ids[member]) for member in members}
        return any(shared.values()) and all(
            length >= min(slot.prompt[member], len(slot.cached[member])) for member, length in shared.items()
        )

    def _offered(self, slot: Slot, member: int, tokens: Seq[int]) -> int:
        """How many of `tokens` a slot can give to another one."""
        if self._ensemble.separate[member]:
            return 0
        length = _usable(slot, member, tokens)
        # The state of a recurrent model can be copied only as it is: after all that it has read.
        return 0 if self._ensemble.recurrent[member] and length < len(slot.cached[member]) else length


def _usable(slot: Slot, member: int, tokens: Seq[int]) -> int:
    """How many of `tokens` need not be decoded: the common beginning, without the last one."""
    return min(common_prefix(slot.cached[member], tokens), len(tokens) - 1)


def common_prefix(left: Seq[int], right: Seq[int]) -> int:
    """The length of the common beginning."""
    length = min(len(left), len(right))
    # One is nearly always the beginning of the other, and comparing whole lists takes no loop in Python.
    if left[:length] == right[:length]:
        return length
    for i in range(length):
        if left[i] != right[i]:
            return i
    return length
