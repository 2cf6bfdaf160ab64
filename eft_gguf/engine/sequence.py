"""One request's state: its token ids per member, its dials, its sampler, its timings."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from collections.abc import Sequence as Seq
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eft_gguf.blend.equation import Filter, members_needed
from eft_gguf.blend.layout import Rows
from eft_gguf.engine.draft_length import LOOKUP_PRIOR, Acceptance
from eft_gguf.engine.lookup import Lookup
from eft_gguf.engine.sampler import Alternatives, Sampler

Witness = Callable[[Mapping[int, NDArray[np.float32]], Rows, NDArray[np.float64], int], None]
"""Told how a token came: the logits by member, what the blend of them is made of (rows and factors), the token. The
logits hold during the call only."""


@dataclass(slots=True)
class Timings:
    """What a reply cost. Seconds are wall time; `model_seconds` is by member, prefill left out.

    prompt_tokens = cached_tokens (still in the KV cache from an earlier turn) + prefill_total (to be decoded);
    of these, prefill_done are decoded. The first token ends the prefill, the rest is the decode phase. Before both
    comes what was spent in the queue.

    Of speculation: rounds are steps that brought tokens; in them `drafted` tokens were proposed, `checked` of them up
    to the first that was refused, and `accepted` taken. plain_steps is what the rounds cost by the measured costs, in
    steps without drafts; 0 where no costs were measured.  not_drafted: why there were no drafts, if something stands
    in their way.  first_tokens: how many came with the first.
    """

    prompt_tokens: int = 0
    cached_tokens: int = 0
    prefill_done: int = 0
    prefill_total: int = 0
    generated_tokens: int = 0
    queue_seconds: float = 0.0
    prefill_seconds: float = 0.0
    decode_seconds: float = 0.0
    model_seconds: dict[str, float] = field(default_factory=dict)
    seed: int = 0
    rounds: int = 0
    drafted: int = 0
    checked: int = 0
    accepted: int = 0
    plain_steps: float = 0.0
    not_drafted: str = ""
    first_tokens: int = 1

    @property
    def later_tokens(self) -> int:
        """Tokens sampled in `decode_seconds`: those after the first step, which with drafts may bring several."""
        return max(0, self.generated_tokens - self.first_tokens)

    @property
    def acceptance(self) -> float | None:
        """The share of the checked drafts that was taken; None without drafts."""
        return self.accepted / self.checked if self.checked else None

    @property
    def mean_length(self) -> float:
        """Drafts a round."""
        return self.drafted / self.rounds if self.rounds else 0.0

    @property
    def gain(self) -> float | None:
        """How many times as fast as without drafts the reply came, by the measured costs; None without those."""
        return self.generated_tokens / self.plain_steps if self.plain_steps else None

    @property
    def prefill_tokens_per_second(self) -> float:
        """Prompt tokens decoded per second, up to the first sampled token."""
        return self.prefill_done / self.prefill_seconds if self.prefill_seconds else 0.0

    @property
    def tokens_per_second(self) -> float:
        """Tokens sampled per second after the first step."""
        return self.later_tokens / self.decode_seconds if self.decode_seconds else 0.0

    @property
    def model_milliseconds(self) -> dict[str, float]:
        """Milliseconds that each member took per token after the first."""
        steps = self.later_tokens
        return {name: 1000 * seconds / steps for name, seconds in self.model_seconds.items()} if steps > 0 else {}

    def as_dict(self) -> dict[str, Any]:
        """All figures as plain values, for JSON."""
        return {
            "prompt_tokens": self.prompt_tokens,
            "cached_tokens": self.cached_tokens,
            "generated_tokens": self.generated_tokens,
            "queue_seconds": round(self.queue_seconds, 6),
            "prefill_seconds": round(self.prefill_seconds, 6),
            "decode_seconds": round(self.decode_seconds, 6),
            "prefill_tokens_per_second": round(self.prefill_tokens_per_second, 3),
            "tokens_per_second": round(self.tokens_per_second, 3),
            "model_milliseconds": {name: round(ms, 3) for name, ms in self.model_milliseconds.items()},
            "speculation": {
                "rounds": self.rounds,
                "drafted": self.drafted,
                "accepted": self.accepted,
                "acceptance": _rounded(self.acceptance),
                "mean_length": round(self.mean_length, 4),
                "gain": _rounded(self.gain),
                "not_drafted": self.not_drafted,
            },
            "seed": self.seed,
        }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


class Sequence:
    """A prompt and what has been sampled after it.

    prompts: token ids per member, for a family may word the prompt differently for its bases; `ids` are they and what
    came after.  factors: the equation's factors per member; filter: that of the blend. Both may be changed between
    steps.
    alternatives: to each sampled token, where the sampler was asked for log-probabilities.
    witness: called for each sampled token, where one is set.
    finish_reason: None until it is finished; with "error", `error` is what kept it from going on.
    acceptance, lookup_acceptance: of drafts by a model and of those from `lookup`, for this reply so far.  foreseen:
    the place of the next token and what `lookup` has for it, where that is not tried as a draft.
    slot: the llama.cpp sequence that holds its KV cache, from when the engine gives it one until it is finished.
    """

    def __init__(
        self,
        prompts: Seq[Seq[int]],
        factors: Seq[float],
        sampler: Sampler,
        *,
        max_tokens: int | None,
        filter: Filter | None = None,
    ) -> None:
        self.ids = [list(prompt) for prompt in prompts]
        self.factors = tuple(factors)
        self.filter = filter or Filter()
        self.sampler = sampler
        self.max_tokens = max_tokens
        self.generated: list[int] = []
        self.alternatives: list[Alternatives] = []
        self.witness: Witness | None = None
        self.finish_reason: str | None = None
        self.error: Exception | None = None
        self.slot: int | None = None
        self.acceptance = Acceptance()
        self.lookup = Lookup()
        self.foreseen: tuple[int, int] | None = None
        self.lookup_acceptance = Acceptance(LOOKUP_PRIOR)
        self.timings = Timings(prompt_tokens=self.length, seed=sampler.seed)
        self._started = time.perf_counter()

    @property
    def length(self) -> int:
        """Tokens that the sequence takes up in the context of the member that has most of them."""
        return max(map(len, self.ids))

    @property
    def members(self) -> list[int]:
        """The members that the blend or its filter looks at, and that so must decode this sequence."""
        return members_needed(self.factors, self.filter)

    def append(self, token: int) -> None:
        """Add a sampled token."""
        self.generated.append(token)
        for ids in self.ids:
            ids.append(token)
        now = time.perf_counter()
        if len(self.generated) == 1:
            self.timings.prefill_seconds = now - self._started
            self._started = now
        else:
            self.timings.decode_seconds = now - self._started
        self.timings.generated_tokens = len(self.generated)

    def begin(self, slot: int) -> None:
        """Leave the queue for a slot."""
        self.slot = slot
        now = time.perf_counter()
        self.timings.queue_seconds = now - self._started
        self._started = now

    def count_cached(self, cached: Seq[Seq[int]]) -> None:
        """Note what of the prompt is in the KV cache, by member, before the rest of it is read."""
        if self.timings.prefill_done == 0:
            self.timings.prefill_total = self._unread(cached)
            self.timings.cached_tokens = self.length - self.timings.prefill_total

    def count_prefill(self, cached: Seq[Seq[int]]) -> None:
        """Note how far the prompt is read, from what is in the KV cache by member."""
        self.timings.prefill_done = self.timings.prefill_total - self._unread(cached)

    def _unread(self, cached: Seq[Seq[int]]) -> int:
        """Tokens still to be decoded by the member that has most of them to decode."""
        return max(len(self.ids[member]) - len(cached[member]) for member in self.members)

    def drop(self, count: int) -> None:
        """Take back the last `count` tokens, which nobody has seen: a stop text ended the reply before them."""
        if count:
            del self.generated[-count:], self.alternatives[-count:]
            for ids in self.ids:
                del ids[-count:]
            self.timings.generated_tokens = len(self.generated)

    def count_round(self, drafted: int, plain_steps: float) -> None:
        """Note a step that brought tokens, with so many drafts, and what it cost in steps without drafts."""
        if not self.timings.rounds:
            self.timings.first_tokens = len(self.generated)
        self.timings.rounds += 1
        self.timings.drafted += drafted
        self.timings.plain_steps += plain_steps

    def count_check(self, accepted: bool) -> None:
        """Note that a draft made ahead was taken, or refused."""
        self.timings.checked += 1
        self.timings.accepted += accepted

    def count_decode(self, seconds: Mapping[str, float]) -> None:
        """Add what a step's decodes took, by member, if the step came after the first token."""
        if len(self.generated) > self.timings.first_tokens:
            for name, value in seconds.items():
                self.timings.model_seconds[name] = self.timings.model_seconds.get(name, 0.0) + value
