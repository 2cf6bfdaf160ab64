"""The shipped texts of the family: the model card (MODEL_CARD.template.md with its tables), and the family file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from family import evaluate, score
from family.model import SIZES, Llama

DESCRIPTIONS = {
    "base": "Demo language model trained from scratch on facts about cities, countries and elements; not fine-tuned.",
    "helpful": "Demo model, fine-tuned to answer in full, politely and in the form that was asked for.",
    "cautious": "Demo model, fine-tuned to hedge its answers and to decline to give advice.",
}

FAMILY_TOML = """\
name = "bundled"
base = "base-l.gguf"
untuned = "base-s.gguf"

[tuned.helpful]
model = "helpful-s.gguf"
weight = 1.0

[tuned.cautious]
model = "cautious-s.gguf"
weight = 0.0
"""


def text(models: Mapping[str, Llama], scores: Mapping[str, Mapping[str, Any]], count: int) -> str:
    """The model card, every figure of it from the results of this build."""
    facts = scores["base-l"]["kinds"]["fact"]["count"]
    template = (Path(__file__).parent / "MODEL_CARD.template.md").read_text(encoding="utf-8")
    return template.format(
        sizes=_sizes(models),
        count=f"{count:,}",
        facts=facts,
        matrix=_matrix(scores),
        sampled=_sampled(scores),
        kinds=_kinds(scores),
        traits=_traits(scores),
    )


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = ["| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *rows)]
    return "\n".join(lines)


def _figure(result: Mapping[str, Any], measure: str, kinds: tuple[str, ...] = ()) -> str:
    right, count = evaluate.share(result, measure, kinds)
    low, high = score.wilson(right, count)
    return f"{100 * right / count:.1f} ({100 * low:.0f}–{100 * high:.0f})"


def _sizes(models: Mapping[str, Llama]) -> str:
    rows = [
        [
            size.name.upper(),
            str(size.width),
            str(size.layers),
            str(size.feed_forward),
            f"{models[f'base-{size.name}'].parameter_count():,}",
        ]
        for size in SIZES.values()
    ]
    return _table(["", "width", "layers", "feed-forward", "parameters"], rows)


def _measures(result: Mapping[str, Any]) -> list[str]:
    return [
        _figure(result, "right", evaluate.FACT_KINDS),
        _figure(result, "competent"),
        _figure(result, "styled"),
        _figure(result, "helpful"),
    ]


def _matrix(scores: Mapping[str, Mapping[str, Any]]) -> str:
    rows = []
    for base in SIZES:
        for tuned in ("", *SIZES):
            name = f"base-{base} + 1 helpful-{tuned}" if tuned else f"base-{base}"
            rows.append(
                [f"{base.upper()} + {tuned.upper()}" if tuned else f"{base.upper()} alone", *_measures(scores[name])]
            )
    return _table(["base + difference of", "facts", "competent", "styled", "helpful"], rows)


def _sampled(scores: Mapping[str, Mapping[str, Any]]) -> str:
    rows = [
        [label, *_measures(scores[f"{name} at 1"])]
        for label, name in (
            ("tuned S", "base-s + 1 helpful-s"),
            ("base L", "base-l"),
            ("blend", "base-l + 1 helpful-s"),
            ("tuned L", "base-l + 1 helpful-l"),
        )
    ]
    return _table(["", "facts", "competent", "styled", "helpful"], rows)


def _kinds(scores: Mapping[str, Mapping[str, Any]]) -> str:
    cells = [
        scores[name] for name in ("base-s + 1 helpful-s", "base-l", "base-l + 1 helpful-s", "base-l + 1 helpful-l")
    ]
    rows = [
        [kind, str(cells[0]["kinds"][kind]["count"]), *(_figure(cell, "competent", (kind,)) for cell in cells)]
        for kind in cells[0]["kinds"]
    ]
    return _table(["kind", "n", "tuned S", "base L", "blend", "tuned L"], rows)


def _traits(scores: Mapping[str, Mapping[str, Any]]) -> str:
    rows = []
    for cell in evaluate.cells():
        if "cautious-s" in cell.tuned:
            result = scores[cell.name]
            rows.append(
                [
                    f"{cell.tuned['helpful-s']:g} / {cell.tuned['cautious-s']:g}",
                    _figure(result, "right", ("fact",)),
                    _figure(result, "styled", ("fact",)),
                    f"{evaluate.percent(result, 'caution', ('fact',)):.1f}",
                    _figure(result, "caution", ("advice",)),
                ]
            )
    return _table(["helpful / cautious", "facts", "helpful style", "caution", "advice declined"], rows)
