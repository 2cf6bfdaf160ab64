"""What was measured of a family's speed, as far as it got: figures, tables, and plain values for JSON."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from eft_gguf.evaluation.table import Table
from eft_gguf.speed.spread import Spread


@dataclass(frozen=True, slots=True)
class Alone:
    """One model by itself: seconds of a token, tokens of a prompt a second."""

    token: Spread
    prefill: float


@dataclass(frozen=True, slots=True)
class Blended:
    """Replies of the blend: seconds a token after the first, how many of these are decodes; prompt tokens a second."""

    token: Spread
    decodes: float
    prefill: float


@dataclass(frozen=True, slots=True)
class Drafted:
    """Replies with drafts, `setting` of them a round ("0" for none, or "auto"): seconds of a token after the first.

    gain: how many times as fast as without drafts, by pairs.  acceptance: the share taken of the drafts that were
    checked.  mean_length: drafts a round.
    """

    setting: str
    token: Spread
    gain: Spread
    acceptance: float | None
    mean_length: float


@dataclass(frozen=True, slots=True)
class Aggregate:
    """Replies under way at once: tokens a second of all together, and what their decodes allow at most.

    allowed: from the batch cost alone, n ÷ the sum of the models' seconds for a batch of n.
    """

    sequences: int
    tokens_per_second: float
    allowed: float


@dataclass(frozen=True, slots=True)
class Turn:
    """A turn of a chat: tokens of its prompt, how many were still cached, seconds to the first new token."""

    number: int
    prompt_tokens: int
    cached_tokens: int
    first_token: float

    @property
    def decoded_tokens(self) -> int:
        """What had to be read anew."""
        return self.prompt_tokens - self.cached_tokens


@dataclass(frozen=True, slots=True)
class Peak:
    """Bytes: the most this process had in memory with one reply at a time, what was planned, and parts of that."""

    peak: int
    planned: int
    files: int
    kv: int


@dataclass(slots=True)
class Speed:
    """All figures; a part that was not measured is empty.

    batch_cost: seconds of a decode of n tokens with logits for each, by member and n.
    """

    settings: dict[str, Any] = field(default_factory=dict)
    alone: dict[str, Alone] = field(default_factory=dict)
    batch_cost: dict[str, dict[int, Spread]] = field(default_factory=dict)
    blend: Blended | None = None
    drafts: list[Drafted] = field(default_factory=list)
    turns: list[Turn] = field(default_factory=list)
    aggregate: list[Aggregate] = field(default_factory=list)
    memory: Peak | None = None

    def as_dict(self) -> dict[str, Any]:
        """Plain values; seconds and bytes unless a name says otherwise."""
        blend = self.blend
        return {
            "settings": self.settings,
            "models": {
                name: {
                    "tokens_per_second": 1 / alone.token.median,
                    "token_seconds": asdict(alone.token),
                    "prefill_tokens_per_second": alone.prefill,
                }
                for name, alone in self.alone.items()
            },
            "blend": blend
            and {
                "tokens_per_second": 1 / blend.token.median,
                "token_seconds": asdict(blend.token),
                "decode_share": blend.decodes / blend.token.median,
                "prefill_tokens_per_second": blend.prefill,
            },
            "batch_cost": {
                name: {str(size): spread.median for size, spread in costs.items()}
                for name, costs in self.batch_cost.items()
            },
            "drafts": [asdict(each) | {"tokens_per_second": 1 / each.token.median} for each in self.drafts],
            "sequences": [asdict(aggregate) for aggregate in self.aggregate],
            "turns": [asdict(turn) | {"decoded_tokens": turn.decoded_tokens} for turn in self.turns],
            "memory": self.memory and asdict(self.memory),
        }

    def tables(self) -> list[Table]:
        """What there is of it, in tables for 80 columns."""
        return [
            table
            for table, there in (
                (self._rates(), self.alone),
                (self._batches(), self.batch_cost),
                (self._drafts(), self.drafts),
                (self._turns(), self.turns),
                (self._sequences(), self.aggregate),
                (self._memory(), self.memory),
            )
            if there
        ]

    def _rates(self) -> Table:
        rows = [
            (name, f"{1 / alone.token.median:.1f}", alone.token.text(2, scale=1e3), f"{alone.prefill:.0f}")
            for name, alone in self.alone.items()
        ]
        note = ""
        if self.blend:
            spread = self.blend.token
            rows.append(("blend", f"{1 / spread.median:.1f}", spread.text(2, scale=1e3), f"{self.blend.prefill:.0f}"))
            note = f"{self.blend.decodes / spread.median:.1%} of the blend's time are the models' decodes."
        columns = ("", "tokens/s", "ms a token (quartiles)", "prompt, tokens/s")
        return Table("Speed", columns, rows, note)

    def _batches(self) -> Table:
        sizes = sorted({size for costs in self.batch_cost.values() for size in costs})
        rows = [
            (name, *(f"{costs[size].median / costs[1].median:.1f}" if size in costs else "" for size in sizes))
            for name, costs in self.batch_cost.items()
        ]
        title = "Batch cost: a decode of n tokens, in decodes of one"
        return Table(title, ("n", *map(str, sizes)), rows)

    def _drafts(self) -> Table:
        rows = [
            (
                each.setting,
                f"{1 / each.token.median:.1f}",
                each.gain.text(2),
                "" if each.acceptance is None else f"{each.acceptance:.0%}",
                f"{each.mean_length:.1f}",
            )
            for each in self.drafts
        ]
        columns = ("drafts", "tokens/s", "of without (quartiles)", "taken", "a round")
        return Table("Draft length: what tokens drafted ahead bring", columns, rows)

    def _turns(self) -> Table:
        rows = [
            (
                str(turn.number),
                f"{turn.prompt_tokens:,}",
                f"{turn.cached_tokens:,}",
                f"{turn.decoded_tokens:,}",
                f"{1e3 * turn.first_token:.1f}",
                f"{1e3 * turn.first_token / max(1, turn.decoded_tokens):.2f}",
            )
            for turn in self.turns
        ]
        columns = ("turn", "prompt", "cached", "read anew", "first token, ms", "ms a token read")
        return Table("Time to the first token of a chat's turns", columns, rows)

    def _sequences(self) -> Table:
        first = self.aggregate[0].tokens_per_second if self.aggregate else 1.0
        rows = [
            (
                str(aggregate.sequences),
                f"{aggregate.tokens_per_second:.1f}",
                f"{aggregate.tokens_per_second / first:.2f}",
                f"{aggregate.allowed:.1f}",
            )
            for aggregate in self.aggregate
        ]
        columns = ("replies at once", "tokens/s of all", "of one", "their decodes allow")
        return Table("Several replies at once", columns, rows)

    def _memory(self) -> Table:
        if self.memory is None:
            return Table("Memory", (), ())
        rows = [
            ("peak, one reply at a time", _mb(self.memory.peak)),
            ("planned before loading", _mb(self.memory.planned)),
            ("model files", _mb(self.memory.files)),
            ("KV caches", _mb(self.memory.kv)),
        ]
        return Table("Memory", ("", "MB (10⁶ bytes)"), rows)


def _mb(size: int) -> str:
    return f"{size / 1e6:,.0f}"
