"""The step: schedule → draft → decode → blend → sample. Many sequences a step; a single chat is the case of one."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from collections.abc import Sequence as Seq
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from eft_gguf.blend.compiled import FilteredBlend, kernels
from eft_gguf.blend.equation import NO_FILTER, Filter, members_needed
from eft_gguf.engine.ensemble import Ensemble, Part
from eft_gguf.engine.sampler import Draft
from eft_gguf.engine.schedule import NO_DRAFTS, Drafts, Plan, schedule
from eft_gguf.engine.sequence import Sequence
from eft_gguf.engine.slots import Slot, Slots
from eft_gguf.engine.speculation import Speculation
from eft_gguf.errors import ContextError, EFTError, QueueFullError

QUEUE = 64
"""How many sequences may wait for a slot."""


class Engine:
    """Runs sequences on an ensemble, `ensemble.sequences` at a time; up to `queue` more wait for their turn.

    Sequences join and leave between any two steps, in any number. What a finished one has decoded stays in its slot, so
    that a prompt which begins alike (the next turn of a chat) decodes only what is new. One thread at a time drives an
    engine: what others want must be handed to that one.

    speculation: what drafts tokens to come, if anything does.
    """

    def __init__(self, ensemble: Ensemble, *, queue: int = QUEUE, speculation: Speculation | None = None) -> None:
        self.ensemble = ensemble
        self._speculation = speculation
        self._slots = Slots(ensemble)
        self._waiting: deque[Sequence] = deque()
        self._queue = queue
        self._reads = 0  # how often something was decoded by others than a replay under way
        self._filtered_blend = FilteredBlend(ensemble.n_vocab, ensemble.untuned)

    def add(self, sequence: Sequence) -> None:
        """Give a sequence a slot, or a place in the queue; it takes part from the next step on.

        Raises ContextError for a prompt that leaves no room for a token, QueueFullError where too many wait already.
        """
        self.require_room(sequence.ids)
        if len(self._waiting) >= self._queue and not self._has_slot:
            raise QueueFullError(
                f"all {self.ensemble.sequences} sequences are in use and {len(self._waiting)} wait",
                hint="try again later, or open with more sequences",
            )
        self._waiting.append(sequence)
        self._admit()

    def pin(self, ids: Seq[Seq[int]]) -> None:
        """Read these beginnings of prompts, by member, once, and keep them for every prompt that starts with them."""
        self._slots.pin(ids)

    @property
    def waiting(self) -> int:
        """How many sequences wait for a slot."""
        return len(self._waiting)

    @property
    def running(self) -> int:
        """How many sequences have a slot."""
        return self.ensemble.sequences - len(self._slots.free)

    def require_room(self, prompts: Seq[Seq[int]]) -> None:
        """Raise EFTError for an empty prompt, ContextError for one that leaves no room for a token."""
        if not all(prompts):
            raise EFTError("the prompt is empty: there is no token to go on from", hint="give a prompt")
        self._require_fitting("prompt", prompts, 0)

    def _require_fitting(self, what: str, prompts: Seq[Seq[int]], more: int) -> None:
        """Raise ContextError where prompts and `more` tokens after each do not fit, or leave no room for a token."""
        member = max(range(len(prompts)), key=lambda member: len(prompts[member]))
        length = len(prompts[member]) + more
        if length < self.ensemble.ctx + bool(more):
            return
        shown = len(self._slots.to_pin(member, prompts[member]))
        raise ContextError(
            f"the {what} has {length:,} tokens, {f'{shown:,} of them in examples, ' if shown else ''}"
            f"the context holds {self.ensemble.ctx:,}",
            hint=f"pass --ctx {length + (0 if more else 256)} if the models allow it, "
            f"{'show fewer examples, ' if shown else ''}or shorten the {what}",
        )

    def remove(self, sequence: Sequence) -> None:
        """Take a sequence out, finished, running or waiting. Its slot keeps what was decoded, and is free at once."""
        self._release(sequence)
        if sequence in self._waiting:
            self._waiting.remove(sequence)
        sequence.sampler.close()

    def step(self) -> list[Sequence]:
        """Decode one batch on every member that is needed; returns the sequences that took part.

        A sequence has new tokens if its prompt is decoded to the end by this step (several, of which only the last may
        be the end, where drafts were taken), and is then finished if
        `finish_reason` is set: "stop" at an end token, "length" at max_tokens or a full context, "error" where its
        token could not be drawn, for which `error` says why. Its slot is then free for the next in the queue.
        """
        self._admit()
        self._reads += 1
        plan = schedule(self._slots, self.ensemble)
        try:
            seconds = self._draft(plan)
            self._decode(plan, seconds)
            self._sample(plan)
        except BaseException:
            self._slots.recover()
            raise
        for sequence in plan.touched:
            sequence.count_decode(seconds)
            if sequence.finish_reason is not None:
                if sequence.slot is not None:
                    self._slots.trim(self._slots[sequence.slot])
                self._release(sequence)
        return plan.touched

    @property
    def _has_slot(self) -> bool:
        return len(self._waiting) < len(self._slots.free)

    def _admit(self) -> None:
        """Give those that wait the slots that are free, first come, first served."""
        while self._waiting and self._slots.free:
            sequence = self._waiting.popleft()
            self._read_pinned(sequence.ids, sequence.members)
            slot = self._slots.take(sequence.ids, sequence.members)
            slot.sequence = sequence
            sequence.begin(slot.index)
            sequence.count_cached(slot.cached)

    def _release(self, sequence: Sequence) -> None:
        if sequence.slot is not None:
            self._slots[sequence.slot].sequence = None
            sequence.slot = None

    def score(
        self, ids: Seq[int], factors: Seq[float], filter: Filter | None = None
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Natural log-probabilities of ids[1:], each given all before it: (members, n − 1), and (n − 1,) blended.

        What the filter rules out has −inf. Uses a free slot. Raises ContextError for a text longer than the context.
        """
        filter = filter or NO_FILTER
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

    def likelihoods(
        self, texts: Seq[tuple[Seq[Seq[int]], Seq[int]]], factors: Seq[float], filter: Filter
    ) -> list[tuple[NDArray[np.float64], bool]]:
        """Of each (context by member, continuation): natural log-probabilities of the continuation's tokens under the
        blend, and whether each of them is the likeliest there. Raises as `replays` does.
        """
        members = members_needed(factors, filter)
        found: list[tuple[list[float], list[bool]]] = [([], []) for _ in texts]
        for number, rows in self.replays(texts):
            values, likeliest = found[number]
            token, n_vocab = texts[number][1][len(values)], self.ensemble.n_vocab
            used = self._filtered([rows[member] for member in members], members, factors, filter)
            values.append(kernels.blend_log_probability(*used, n_vocab, token))
            likeliest.append(kernels.blend_argmax(*used, n_vocab) == token)
        return [(np.array(values), all(likeliest)) for values, likeliest in found]

    def replay(self, prompts: Seq[Seq[int]], tokens: Seq[int]) -> Iterator[list[NDArray[np.float32]]]:
        """For each of `tokens`, every member's logits before it; views, until the next is asked for.

        prompts: what each member read before the first of them.  Reads `tokens` again in a free slot, and of the
        prompts what that does not hold; take all before anything else runs. Raises ContextError where they do not fit.
        """
        return (rows for _, rows in self.replays([(prompts, tokens)]))

    def replays(self, texts: Seq[tuple[Seq[Seq[int]], Seq[int]]]) -> Iterator[tuple[int, list[NDArray[np.float32]]]]:
        """`replay` for many: the number of a text, and its next logits. Texts come in order, each as a whole.

        Short ones are decoded together, and a beginning that neighbours share once. Raises ContextError at once.
        """
        for prompts, tokens in texts:
            self._require_fitting("text", prompts, len(tokens))
        return self._replays(deque(enumerate(texts)))

    def _replays(
        self, waiting: deque[tuple[int, tuple[Seq[Seq[int]], Seq[int]]]]
    ) -> Iterator[tuple[int, list[NDArray[np.float32]]]]:
        members = range(len(self.ensemble.names))
        self._reads += 1
        reads = self._reads
        try:
            while waiting:
                group: dict[int, tuple[int, Seq[Seq[int]], Seq[int]]] = {}
                room = self.ensemble.outputs
                while waiting and (not group or len(waiting[0][1][1]) <= room) and len(group) < len(self._slots.free):
                    number, (prompts, tokens) = waiting.popleft()
                    # The prompt's last token is read again: its logits are those before the first of `tokens`.
                    self._read_pinned(prompts, members)
                    slot = self._slots.take(prompts, members, besides=group)
                    self._read_prompts(slot, prompts)
                    group[slot.index] = (number, prompts, tokens)
                    room -= len(tokens)
                if not group:
                    self._slots.require_free()
                longest = max(len(tokens) for _, _, tokens in group.values())
                for start in range(0, longest, self.ensemble.outputs):
                    for item in self._read_again(group, start):
                        yield item
                        self._require_undisturbed(reads)
        except BaseException:
            if not self.ensemble.closed:
                self._slots.recover()
            raise

    def _require_undisturbed(self, reads: int) -> None:
        """Raise EFTError where the logits of a replay are no longer those that its decode gave."""
        if self.ensemble.closed:
            raise EFTError("these models were closed in the middle of a replay", hint="open the family again")
        if self._reads != reads:
            raise EFTError(
                "something else was decoded in the middle of a replay, and its logits are gone",
                hint="take all of a replay before anything else runs: list(eft.replay(…))",
            )

    def _read_prompts(self, slot: Slot, prompts: Seq[Seq[int]]) -> None:
        """Decode what a slot does not hold of prompts, but for their last tokens."""
        for member, prompt in enumerate(prompts):
            while (start := len(slot.cached[member])) < len(prompt) - 1:
                stop = min(start + self.ensemble.batch, len(prompt) - 1)
                self._read(slot, member, prompt[start:stop], outputs=0)
        self._slots.keep_pinned(slot)

    def _read_pinned(self, prompts: Seq[Seq[int]], members: Iterable[int]) -> None:
        """Decode the pinned beginning for recurrent members: their states cannot be cut out of a longer text's."""
        for member in members:
            if not self.ensemble.recurrent[member]:
                continue
            wanted, pinned = self._slots.to_pin(member, prompts[member]), self._slots.pinned
            while (start := len(pinned.cached[member])) < len(wanted):
                self._read(pinned, member, wanted[start : start + self.ensemble.batch], outputs=0)

    def _read_again(
        self, group: Mapping[int, tuple[int, Seq[Seq[int]], Seq[int]]], start: int
    ) -> Iterator[tuple[int, list[NDArray[np.float32]]]]:
        """Decode the tokens of a group, by slot, from `start` on as far as outputs go, and give their logits out.

        More than one text are in a group only if all their tokens fit at once.
        """
        numbers = []
        parts: list[list[Part]] = [[] for _ in self.ensemble.names]
        for index, (number, prompts, tokens) in group.items():
            stop = min(start + self.ensemble.outputs, len(tokens))
            for member, prompt in enumerate(prompts):
                known = [prompt[-1], *tokens[:stop]][start:stop]
                parts[member].append(Part(index, len(self._slots[index].cached[member]), known, len(known)))
            numbers += [number] * (stop - start)
        for member, own in enumerate(parts):
            self.ensemble.decode(member, own)
            for part in own:
                self._slots[part.sequence].cached[member].extend(part.tokens)
        rows = (self.ensemble.rows(member) for member in range(len(parts)))
        yield from zip(numbers, map(list, zip(*rows, strict=True)), strict=True)

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
        slot = self._slots.closest(ids)
        self._reads += 1
        try:
            for member, own in ids.items():
                while (start := len(slot.cached[member])) < len(own):
                    tokens = own[start : start + self.ensemble.batch]
                    self._read(slot, member, tokens, outputs=int(start + len(tokens) == len(own)))
        except BaseException:
            self._slots.recover()
            raise
        return [self.ensemble.rows(member)[0] for member in ids]

    def _read(self, slot: Slot, member: int, tokens: Seq[int], *, outputs: int) -> None:
        """Decode `tokens` after what a member has in a slot, and put them on record."""
        self.ensemble.decode(member, [Part(slot.index, len(slot.cached[member]), tokens, outputs)])
        slot.cached[member].extend(tokens)

    def _draft(self, plan: Plan) -> dict[str, float]:
        """Extend the plan by drafts where they pay; returns the seconds of drafting, by member."""
        return {} if self._speculation is None else self._speculation.draft(plan, self._slots)

    def _decode(self, plan: Plan, seconds: dict[str, float]) -> None:
        """Decode the plan's parts and put them on record; adds the seconds by member."""
        # All are decoded before the first row is read, which waits for a GPU to be done.
        for member in self.ensemble.order:
            parts = plan.parts[member]
            if not parts:
                continue
            name = self.ensemble.names[member]
            seconds[name] = seconds.get(name, 0.0) + self.ensemble.decode(member, parts)
            for part in parts:
                self._slots[part.sequence].cached[member].extend(part.tokens)
        for sequence in plan.touched:
            if not sequence.generated and sequence.slot is not None:
                sequence.count_prefill(self._slots[sequence.slot].cached)
                self._slots.keep_pinned(self._slots[sequence.slot])

    def _sample(self, plan: Plan) -> None:
        """Give each ready sequence its next tokens, from the blend of its members' rows."""
        rows = [iter(self.ensemble.rows(member)) if parts else iter(()) for member, parts in enumerate(plan.parts)]
        for sequence in plan.ready:
            assert sequence.slot is not None
            drafts, members = plan.drafts.get(sequence.slot, NO_DRAFTS), sequence.members
            count = len(drafts.tokens) + 1
            own = [
                [*known, *islice(rows[member], count - len(known))]
                for member, known in ((member, drafts.rows if member == drafts.drafter else []) for member in members)
            ]
            before = len(sequence.generated)
            try:
                for draft, *at_place in zip([*drafts.tokens, None], *own, strict=True):
                    if not self._take(sequence, members, at_place, drafts, draft):
                        break
            except Exception as error:
                # A grammar that leads nowhere, say: this reply ends, the others go on.
                sequence.error, sequence.finish_reason = error, "error"
            if drafts.tokens:
                self._slots.trim(self._slots[sequence.slot])
            sequence.count_round(len(drafts.tokens), plan.plain_steps)
            if self._speculation is not None:
                self._speculation.see_round(sequence, len(sequence.generated) - before, plan.plain_steps)

    def _take(
        self,
        sequence: Sequence,
        members: Seq[int],
        rows: Seq[NDArray[np.float32]],
        drafts: Drafts,
        draft: Draft | None,
    ) -> bool:
        """Give a sequence one token; whether it is the one drafted ahead, so that the rows after it are of use."""
        proposed = draft or drafts.next
        if proposed is None and self._speculation is not None:
            proposed = self._speculation.at_hand(sequence, members, rows)
        used, factors = self.drawn_from(rows, members, sequence.factors, sequence.filter)
        sequence.sampler.unfiltered = None
        if sequence.filter.in_force(sequence.factors, self.ensemble.untuned) != NO_FILTER:
            parts = [(row, sequence.factors[member]) for row, member in zip(rows, members, strict=True)]
            parts = [(row, factor) for row, factor in parts if factor != 0]
            sequence.sampler.unfiltered = tuple(row for row, _ in parts), np.array([factor for _, factor in parts])
        if proposed is None:
            token = sequence.sampler.sample(used, factors)
        else:
            assert self._speculation is not None
            token, overlap = sequence.sampler.check(proposed, used, factors)
            self._speculation.see(sequence, proposed, overlap)
        if draft is not None:
            sequence.count_check(token == draft.token)
        if sequence.sampler.logprobs is not None:
            sequence.alternatives.append(sequence.sampler.alternatives(used, factors, token))
        if sequence.witness is not None:
            for row in rows:
                row[self.ensemble.never_sampled] = -np.inf
            sequence.witness(dict(zip(members, rows, strict=True)), used, factors, token)
        if token in self.ensemble.end_tokens:
            sequence.finish_reason = "stop"
        sequence.append(token)
        full = sequence.length >= self.ensemble.ctx
        if sequence.finish_reason is None and (full or len(sequence.generated) == sequence.max_tokens):
            sequence.finish_reason = "length"
        return draft is not None and token == draft.token and sequence.finish_reason is None

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
        if filter.in_force(factors, self.ensemble.untuned) == NO_FILTER:
            return tuple(rows), np.array([factors[member] for member in members])
        return (self._filtered_blend(tuple(rows), members, factors, filter),), np.ones(1)
