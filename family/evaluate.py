"""The family's own score table: bases × fine-tuning differences, and the way from one trait to the other."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tokenizers import Tokenizer

from eft_gguf.evaluation import scoring
from family.decode import Options, Reply, blend_weights, replies
from family.model import SIZES, Llama
from family.tokenizer import chat_text

FACT_KINDS = ("fact",)


@dataclass(frozen=True, slots=True)
class Cell:
    """One blend to be scored. `tuned` maps a trait's model to its weight; all of one size, whose base is untuned."""

    base: str
    tuned: dict[str, float] = field(default_factory=dict)
    temperature: float = 0.0
    kinds: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """A short unique name, such as `base-l + 1 helpful-s`."""
        parts = [self.base, *(f"{weight:g} {name}" for name, weight in self.tuned.items())]
        return " + ".join(parts) + (f" at {self.temperature:g}" if self.temperature else "")

    def shares(self) -> dict[str, float]:
        """Each model's share of the logits."""
        sizes = {name[-1] for name in self.tuned} or {self.base[-1]}
        return blend_weights(self.base, f"base-{sizes.pop()}", self.tuned)


def cells() -> list[Cell]:
    """Every cell of the matrix, the four that matter also at temperature 1, and five steps from trait to trait."""
    matrix = [Cell(f"base-{b}", {f"helpful-{t}": 1.0} if t else {}) for b in SIZES for t in ("", *SIZES)]
    sampled = [
        Cell(f"base-{b}", tuned, 1.0)
        for b, tuned in (("s", {"helpful-s": 1.0}), ("l", {}), ("l", {"helpful-s": 1.0}), ("l", {"helpful-l": 1.0}))
    ]
    both = ("fact", "two_part", "followup", "advice", "list")
    between = [
        Cell("base-l", {"helpful-s": 1 - share, "cautious-s": share}, kinds=both)
        for share in (0.0, 0.25, 0.5, 0.75, 1.0)
    ]
    return matrix + sampled + between


def run(
    cell: Cell,
    models: Mapping[str, Llama],
    tokenizer: Tokenizer,
    items: Sequence[Mapping[str, Any]],
    rivals: Mapping[str, Sequence[str]],
) -> dict[str, Any]:
    """Replies of one blend to all questions of the cell's kinds, and what they score, kind by kind."""
    chosen = [item for item in items if not cell.kinds or item["kind"] in cell.kinds]
    prompts = [tokenizer.encode(chat_text(item["messages"], reply_follows=True)).ids for item in chosen]
    said = replies(models, cell.shares(), tokenizer, prompts, Options(temperature=cell.temperature))
    return {
        "cell": cell.name,
        "base": cell.base,
        "tuned": cell.tuned,
        "temperature": cell.temperature,
        "kinds": tally(chosen, said, rivals),
        "replies": {item["id"]: reply.text for item, reply in zip(chosen, said, strict=True)},
    }


def tally(
    items: Sequence[Mapping[str, Any]],
    said: Sequence[Reply],
    rivals: Mapping[str, Sequence[str]],
) -> dict[str, dict[str, float]]:
    """Kind → counts of replies that are right, styled, competent, helpful, finished; the sum of caution."""
    table: dict[str, Counter[str]] = defaultdict(Counter)
    for item, reply in zip(items, said, strict=True):
        row = table[item["kind"]]
        row["count"] += 1
        row["right"] += bool(item["answers"]) and scoring.facts_right(item, reply.text, rivals)
        row["styled"] += scoring.styled(item, reply.text, reply.finished)
        row["competent"] += scoring.competent(item, reply.text)
        row["helpful"] += scoring.helpful(item, reply.text, reply.finished)
        row["finished"] += reply.finished
        row["caution"] += scoring.caution(item, reply.text) or 0
    return {kind: dict(row) for kind, row in table.items()}


def share(result: Mapping[str, Any], measure: str, kinds: Sequence[str] = ()) -> tuple[int, int]:
    """(how many, of how many) over some kinds, or over all of them."""
    rows = [row for kind, row in result["kinds"].items() if not kinds or kind in kinds]
    return round(sum(row[measure] for row in rows)), sum(row["count"] for row in rows)


def percent(result: Mapping[str, Any], measure: str, kinds: Sequence[str] = ()) -> float:
    """The share in per cent."""
    right, count = share(result, measure, kinds)
    return 100 * right / count
