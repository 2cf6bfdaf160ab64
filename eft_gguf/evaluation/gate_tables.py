"""What a gate found, as tables and in words."""

from __future__ import annotations

from typing import Any

from eft_gguf.evaluation.gate import CHOSEN, PAPER, SHOWN, Result
from eft_gguf.evaluation.replies import Figures
from eft_gguf.evaluation.table import Table

SYSTEMS_NOTE = (
    "Per cent with 95 % intervals; success: right and in the form; len.: mean tokens;\n"
    "rep.: share of repeated 4-token runs; tok/s: the first prompts, one at a time."
)


def tables(result: Result) -> list[Table]:
    """Every system on the prompts to report on, the gaps, and the settings that were tried."""
    found = [_systems(result), _gaps(result.record["gaps"])]
    if result.tried:
        found.append(_tried(result))
    return found


def sentence(result: Result) -> str:
    """The verdict, its reason, and the dials it is about."""
    shown = " Base and untuned are shown the examples." if result.chosen.examples else ""
    dials = _dials(result.record["chosen"]["dials"])
    text = f"{result.verdict.word}: {result.verdict.reason}.\nThe blend: {dials}.{shown}"
    if result.verdict.word == "not worth it" and SHOWN in result.verdict.reason:
        text += "\nA blend is not needed: --behaviour 0 with the same --examples runs base alone, and shows it these."
    return text


def _systems(result: Result) -> Table:
    rows = []
    for name, replies in result.replies.items():
        # Where (1, 1) was chosen, or given, both rows would be the same.
        if name == PAPER and result.replies[CHOSEN] == replies:
            continue
        one, speed = Figures.of(replies), result.speeds.get(name)
        rows.append(
            [
                name,
                *(share.text() for share in (one.success, one.accuracy, one.form)),
                f"{one.tokens:.1f}",
                f"{100 * one.repetition:.0f}",
                "–" if speed is None else f"{speed:.{1 if speed < 100 else 0}f}",
            ]
        )
    columns = ("system", "success", "accuracy", "form", "len.", "rep.", "tok/s")
    return Table(f"{result.record['prompts']['report']} prompts to report on", columns, rows, SYSTEMS_NOTE)


def _gaps(gaps: dict[str, Any]) -> Table:
    rows = [[name, "no gap that is sure" if gap is None else _percent(gap)] for name, gap in gaps.items()]
    return Table("What the blend closes of a gap", ("gap", "closed, %"), rows)


def _percent(gap: dict[str, float]) -> str:
    value, low, high = (100 * gap[key] for key in ("value", "low", "high"))
    return f"{value:.0f} ({low:.0f}–{high:.0f})"


def _tried(result: Result) -> Table:
    rows = [[name, one.success.text(), one.accuracy.text(), one.form.text()] for name, one in result.tried.items()]
    title = f"Settings tried on the other {result.record['prompts']['choose']}; the best is used above"
    return Table(title, ("setting", "success", "accuracy", "form"), rows)


def _dials(dials: dict[str, Any]) -> str:
    named = {"knowledge": dials["knowledge"], "behaviour": dials["behaviour"], **dials["traits"], **dials["filter"]}
    return ", ".join(f"{name} {value:g}" for name, value in named.items())
