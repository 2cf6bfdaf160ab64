"""The step: schedule → decode → blend → sample. Many sequences in one step; a single chat is the case of one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from collections.abc import Sequence as Seq
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from eft_gguf.blend import kernels
from eft_gguf.blend.equation import Filter, members_needed
from eft_gguf.blend.filter_kernels import FilteredBlend
from eft_gguf.engine.ensemble import Ensemble, Part
from eft_gguf.engine.sequence import Sequence
from eft_gguf.errors import ContextError, EFTError


@dataclass(slots=True)
class Slot:
    """A llama.cpp sequence: the token ids that each member has in its KV cache for it, and who uses it."""

    index: int
    cached: list[list[int]]
    sequence: Sequence | None = None
    last_used: int = 0


@dataclass(slots=True)
class Plan:
    """What one step decodes: the parts by member, the sequences that get a token by it, all that are touched."""

    parts: list[list[Part]]
    ready: list[Sequence] = field(default_factory=list)
    touched: list[Sequence] = field(default_factory=list)


class Engine:
    """Runs sequences on an ensemble, at most `ensemble.sequences` at a time.

    What a finished sequence has decoded stays in its slot, so that a prompt which begins alike (the next turn of a
    chat) decodes only what is new.
    """

    def __init__(self, ensemble: Ensemble) -> None:
        self.ensemble = ensemble
        members = range(len(ensemble.names))
        self._slots = [Slot(index, [[] for _ in members]) for index in range(ensemble.sequences)]
        self._clock = 0
        self._filtered_blend = FilteredBlend(ensemble.n_vocab, ensemble.untuned)

    def add(self, sequence: Sequence) -> None:
        """Give a sequence a slot; it takes part from the next step on.

        Raises ContextError for a prompt that leaves no room for a token, EFTError when all slots are in use.
        """
        self.require_room(sequence.ids)
        free = [slot for slot in self._slots if slot.sequence is None]
        if not free:
            raise EFTError(
                f"all {len(self._slots)} sequences are in use",
                hint="finish one first, or open with more sequences",
            )
        slot = max(free, key=lambda slot: (self._common_prefix(slot, sequence), -slot.last_used))
        for member, ids in enumerate(sequence.ids):
            # The last prompt token is always decoded, for its logits.
            self._cut(slot, member, min(_common(slot.cached[member], ids), len(ids) - 1))
        sequence.timings.prefill_total = self._pending(slot, sequence)
        sequence.timings.cached_tokens = sequence.length - sequence.timings.prefill_total
        slot.sequence, sequence.slot = sequence, slot.index
        self._clock += 1
        slot.last_used = self._clock

    def require_room(self, prompts: Seq[Seq[int]]) -> None:
        """Raise EFTError for an empty prompt, ContextError for one that leaves no room for a token."""
        longest = max(map(len, prompts))
        if not all(prompts):
            raise EFTError("the prompt is empty: there is no token to go on from", hint="give a prompt")
        if longest >= self.ensemble.ctx:
            raise ContextError(
                f"the prompt has {longest:,} tokens, the context holds {self.ensemble.ctx:,}",
                hint=f"pass --ctx {longest + 256} if the models allow it, or shorten the prompt",
            )

    def remove(self, sequence: Sequence) -> None:
        """Take a sequence out, finished or not. Its slot keeps what was decoded."""
        if sequence.slot is not None:
            self._slots[sequence.slot].sequence = None
            sequence.slot = None
        sequence.sampler.close()

    def step(self) -> list[Sequence]:
        """Decode one batch on every member that is needed; returns the sequences that took part.

        A sequence has a new token if its prompt is decoded to the end by this step, and is then finished if
        `finish_reason` is set: "stop" at an end token, "length" at max_tokens or a full context.
        """
        plan = self._schedule()
        try:
            seconds = self._decode(plan)
            self._sample(plan)
        except BaseException:
            self._recover()
            raise
        for sequence in plan.touched:
            sequence.count_decode(seconds)
        return plan.touched

    def score(
        self, ids: Seq[int], factors: Seq[float], filter: Filter | None = None
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Natural log-probabilities of ids[1:], each given all before it: (members, n − 1), and (n − 1,) blended.

        What the filter rules out has −inf. Uses a free slot. Raises ContextError for a text longer than the context.
        """
        filter = filter or Filter()
        used = members_needed(factors, filter)
        alone, n_vocab = np.ones(1), self.ensemble.n_vocab
        by_member, blended = np.zeros((len(self.ensemble.names), len(ids) - 1)), np.zeros(len(ids) - 1)
        for at, rows in enumerate(self.replay([ids[:1]] * len(self.ensemble.names), ids[1:])):
            for member, row in enumerate(rows):
                by_member[member, at] = kernels.blend_log_probability((row,), alone, n_vocab, ids[at + 1])
            blended[at] = kernels.blend_log_probability(
                *self._filtered([rows[member] for member in used], used, factors, filter), n_vocab, ids[at + 1]
            )
        return by_member, blended

    def replay(self, prompts: Seq[Seq[int]], tokens: Seq[int]) -> Iterator[list[NDArray[np.float32]]]:
        """For each of `tokens`, every member's logits before it; views, until the next is asked for.

        prompts: what each member read before the first of them.  Reads `tokens` again in a free slot, and of the
        prompts what that does not hold; take all before anything else runs. Raises ContextError where they do not fit.
        """
        length = max(map(len, prompts)) + len(tokens)
        if length > self.ensemble.ctx:
            raise ContextError(
                f"the text has {length:,} tokens, the context holds {self.ensemble.ctx:,}",
                hint=f"pass --ctx {length} if the models allow it, or shorten the text",
            )
        free = [slot for slot in self._slots if slot.sequence is None]
        if not free:
            raise EFTError(f"all {len(self._slots)} sequences are in use", hint="finish one first")

        def kept(slot: Slot) -> list[int]:
            # The prompt's last token is read again: its logits are those before the first of `tokens`.
            return [min(_common(has, ids), len(ids) - 1) for has, ids in zip(slot.cached, prompts, strict=True)]

        slot = max(free, key=lambda slot: (sum(kept(slot)), -slot.last_used))
        try:
            for member, (keep, prompt) in enumerate(zip(kept(slot), prompts, strict=True)):
                self._cut(slot, member, keep)
                while (start := len(slot.cached[member])) < len(prompt) - 1:
                    stop = min(start + self.ensemble.batch, len(prompt) - 1)
                    self._read(slot, member, prompt[start:stop], outputs=0)
            for start in range(0, len(tokens), self.ensemble.outputs):
                stop = min(start + self.ensemble.outputs, len(tokens))
                for member, prompt in enumerate(prompts):
                    known = [prompt[-1], *tokens[:stop]][start:stop]
                    self._read(slot, member, known, outputs=len(known))
                yield from map(list, zip(*map(self.ensemble.rows, range(len(prompts))), strict=True))
        except BaseException:
            self._recover()
            raise

    def blended(
        self, rows: Seq[NDArray[np.float32]], factors: Seq[float], filter: Filter, out: NDArray[np.float32]
    ) -> None:
        """Write into `out` the logits that a token is drawn from; in `rows`, too, what is never sampled gets −inf.

        rows: logits of all members.  out: shape (ensemble.n_vocab,).
        """
        members = members_needed(factors, filter)
        kernels.blend_into(*self.drawn_from([rows[member] for member in members], members, factors, filter), out)
        for row in rows:
            row[self.ensemble.never_sampled] = -np.inf

    def logits_after(self, ids: Mapping[int, list[int]]) -> list[NDArray[np.float32]]:
        """The logits after `ids`, which are by member, of each of these; views until its next decode.

        ids: 1 to `ensemble.ctx` of them.  For callers that choose the tokens themselves. Uses a free slot, and decodes
        only what that does not hold yet.
        """
        free = [slot for slot in self._slots if slot.sequence is None]
        if not free:
            raise EFTError(f"all {len(self._slots)} sequences are in use", hint="finish one first")
        slot = max(free, key=lambda slot: sum(_common(slot.cached[member], own) for member, own in ids.items()))
        try:
            for member, own in ids.items():
                # The last token is always decoded, for its logits.
                self._cut(slot, member, min(_common(slot.cached[member], own), len(own) - 1))
                while (start := len(slot.cached[member])) < len(own):
                    tokens = own[start : start + self.ensemble.batch]
                    self._read(slot, member, tokens, outputs=int(start + len(tokens) == len(own)))
        except BaseException:
            self._recover()
            raise
        return [self.ensemble.rows(member)[0] for member in ids]

    def _read(self, slot: Slot, member: int, tokens: Seq[int], *, outputs: int) -> None:
        """Decode `tokens` after what a member has in a slot, and put them on record."""
        self.ensemble.decode(member, [Part(slot.index, len(slot.cached[member]), tokens, outputs)])
        slot.cached[member].extend(tokens)

    def _schedule(self) -> Plan:
        """What to decode next: a token of each sequence that is generating, then prompts as far as batches hold."""
        plan = Plan([[] for _ in self.ensemble.names])
        room = [self.ensemble.batch] * len(self.ensemble.names)
        running = [slot for slot in self._slots if slot.sequence is not None and slot.sequence.finish_reason is None]
        for slot in sorted(running, key=lambda slot: (not slot.sequence.generated, slot.last_used)):  # type: ignore[union-attr]
            sequence = slot.sequence
            assert sequence is not None
            pending = {member: len(sequence.ids[member]) - len(slot.cached[member]) for member in sequence.members}
            take = {member: min(count, room[member]) for member, count in pending.items()}
            ready = take == pending
            for member, count in take.items():
                # Logits last until the next decode only, so all members decode their last token in the same step.
                count -= int(not ready and count == pending[member])
                if count <= 0:
                    continue
                start = len(slot.cached[member])
                tokens = sequence.ids[member][start : start + count]
                plan.parts[member].append(Part(slot.index, start, tokens, int(ready)))
                room[member] -= count
            plan.touched.append(sequence)
            if ready:
                plan.ready.append(sequence)
        return plan

    def _decode(self, plan: Plan) -> dict[str, float]:
        """Decode the plan's parts and put them on record; returns the seconds by member."""
        seconds: dict[str, float] = {}
        # All are decoded before the first row is read, which waits for a GPU to be done.
        for member in self.ensemble.order:
            parts = plan.parts[member]
            if not parts:
                continue
            seconds[self.ensemble.names[member]] = self.ensemble.decode(member, parts)
            for part in parts:
                self._slots[part.sequence].cached[member].extend(part.tokens)
        for sequence in plan.touched:
            if not sequence.generated and sequence.slot is not None:
                left = self._pending(self._slots[sequence.slot], sequence)
                sequence.timings.prefill_done = sequence.timings.prefill_total - left
        return seconds

    def _sample(self, plan: Plan) -> None:
        """Give each ready sequence its next token, from the blend of its members' rows."""
        rows = [iter(self.ensemble.rows(member)) if parts else iter(()) for member, parts in enumerate(plan.parts)]
        for sequence in plan.ready:
            members = sequence.members
            own = [next(rows[member]) for member in members]
            used, factors = self.drawn_from(own, members, sequence.factors, sequence.filter)
            token = sequence.sampler.sample(used, factors)
            if sequence.sampler.logprobs is not None:
                sequence.alternatives.append(sequence.sampler.alternatives(used, factors, token))
            if token in self.ensemble.end_tokens:
                sequence.finish_reason = "stop"
            sequence.append(token)
            full = sequence.length >= self.ensemble.ctx
            if sequence.finish_reason is None and (full or len(sequence.generated) == sequence.max_tokens):
                sequence.finish_reason = "length"

    def drawn_from(
        self, rows: Seq[NDArray[np.float32]], members: Seq[int], factors: Seq[float], filter: Filter
    ) -> tuple[kernels.Rows, NDArray[np.float64]]:
        """What a token is chosen from, as `_filtered`; what is never sampled is ruled out, in rows[0] itself too."""
        never = self.ensemble.never_sampled
        # One member ruling a token out rules it out of the blend; llama.cpp does not read these rows again.
        rows[0][never] = -np.inf
        used, weights = self._filtered(rows, members, factors, filter)
        # A filter may go by the other members alone.
        used[0][never] = -np.inf
        return used, weights

    def _filtered(
        self, rows: Seq[NDArray[np.float32]], members: Seq[int], factors: Seq[float], filter: Filter
    ) -> tuple[kernels.Rows, NDArray[np.float64]]:
        """What the kernels of the blend take: these rows and their factors or, under a filter, its outcome alone."""
        if filter.in_force(factors, self.ensemble.untuned) == Filter():
            return tuple(rows), np.array([factors[member] for member in members])
        return (self._filtered_blend(tuple(rows), members, factors, filter),), np.ones(1)

    def _pending(self, slot: Slot, sequence: Sequence) -> int:
        """Tokens still to be decoded by the member that has most of them to decode."""
        return max(len(sequence.ids[member]) - len(slot.cached[member]) for member in sequence.members)

    def _recover(self) -> None:
        """Forget what a step left half done: an interrupt may come between any two of its lines.

        llama.cpp may hold tokens that are not on record, and members whose last token is decoded but not sampled
        from have lost its logits: they decode it again.
        """
        for slot in self._slots:
            for member, cached in enumerate(slot.cached):
                known = len(cached) if slot.sequence is None else len(slot.sequence.ids[member]) - 1
                self._cut(slot, member, min(known, len(cached)))

    def _common_prefix(self, slot: Slot, sequence: Sequence) -> int:
        """Tokens that every member of the sequence's blend can keep of what the slot has cached."""
        return min(
            min(_common(slot.cached[member], sequence.ids[member]), len(sequence.ids[member]) - 1)
            for member in sequence.members
        )

    def _cut(self, slot: Slot, member: int, position: int) -> None:
        del slot.cached[member][self.ensemble.forget(member, slot.index, position) :]


def _common(left: Seq[int], right: Seq[int]) -> int:
    """The length of the common prefix."""
    length = min(len(left), len(right))
    # One is nearly always the beginning of the other, and comparing whole lists takes no loop in Python.
    if left[:length] == right[:length]:
        return length
    for i in range(length):
        if left[i] != right[i]:
            return i
    return length
