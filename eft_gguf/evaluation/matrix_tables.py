"""A matrix as tables and in words: the cells, the steps between neighbours, the claims, the gaps."""

from __future__ import annotations

from typing import Any

from eft_gguf.evaluation.effects import Claim, Effect, claims, ends, neighbours, recovered
from eft_gguf.evaluation.matrix import MEASURES, Cell, Outcome
from eft_gguf.evaluation.statistics import Fraction, Share, bootstrap
from eft_gguf.evaluation.table import Table

TITLES = {"facts": "Factuality", "helpful": "Helpfulness", "both": "Both at once"}


def tables(outcome: Outcome) -> list[Table]:
    """A table for each measure, the steps between neighbours, and the gaps."""
    return [
        *(_cells(outcome, measure) for measure in (*MEASURES, "both")),
        _steps("Steps between neighbours", neighbours(outcome), "All steps are corrected together (Holm)."),
        _recovered(outcome),
    ]


def verdicts(outcome: Outcome) -> str:
    """Both claims, and what the data say of them."""
    return "\n".join(_claim(claim) for claim in claims(outcome))


def figures(outcome: Outcome) -> dict[str, Any]:
    """Every figure as plain values."""
    return {
        "cells": [
            {
                "base": cell.base,
                "pair": cell.pair,
                "kind": cell.kind,
                **{measure: cell_figures(outcome, measure, cell) for measure in (*MEASURES, "both")},
            }
            for cell in outcome.scores
        ],
        "claims": [
            {"claim": claim.text, "verdict": claim.verdict, "lines": [_line(line) for line in claim.lines]}
            for claim in claims(outcome)
        ],
        "neighbours": [effect.as_dict() for effect in neighbours(outcome)],
        "ends": [effect.as_dict() for effect in ends(outcome)],
        "recovered": [
            {
                "base": one.blend.base,
                "pair": one.blend.pair,
                "from": _name(one.start),
                "to": _name(one.end),
                "measure": one.measure,
                "fraction": None if one.fraction is None else _rounded(one.fraction),
            }
            for one in recovered(outcome)
        ],
    }


def cell_figures(outcome: Outcome, measure: str, cell: Cell) -> dict[str, float]:
    """Counts of a cell, with the bootstrap's interval."""
    scores = outcome.of(measure, cell)
    share, (low, high) = Share(float(scores.sum()), len(scores)), bootstrap(scores)
    return {**share.as_dict(), "low": round(low, 6), "high": round(high, 6)}


def _cells(outcome: Outcome, measure: str) -> Table:
    asked = len(outcome.of(measure, next(iter(outcome.scores))))
    rows = []
    for base in outcome.bases:
        row = [f"base {base}"]
        for pair in (None, *outcome.pairs):
            found = cell_figures(outcome, measure, Cell(base, pair))
            share, low, high = (100 * found[name] for name in ("share", "low", "high"))
            row.append(f"{share:.1f} ({low:.0f}–{high:.0f})" + ("*" if pair == base else ""))
        rows.append(row)
    columns = ("", "alone", *(f"+ tuned {pair} − {pair}" for pair in outcome.pairs))
    note = "Per cent, with the bootstrap's 95 % interval. *: really tuned." if measure == "both" else ""
    return Table(f"{TITLES[measure]}, {asked:,} questions a cell", columns, rows, note)


def _steps(title: str, effects: list[Effect], note: str) -> Table:
    rows = [
        [
            f"{effect.measure}: {_name(effect.start)} → {_name(effect.end)}",
            effect.scaled,
            f"{100 * effect.gain:+.1f} ({100 * effect.low:+.1f} to {100 * effect.high:+.1f})",
            f"{effect.corrected:.2g}",
        ]
        for effect in effects
    ]
    return Table(title, ("step", "scaled", "points", "p"), rows, f"McNemar's exact test. {note}")


def _recovered(outcome: Outcome) -> Table:
    rows: dict[tuple[Cell, Cell, Cell], list[str]] = {}
    for one in recovered(outcome):
        rows.setdefault((one.blend, one.start, one.end), []).append(_percent(one.fraction))
    named = [[f"{_name(start)} to {_name(end)}, by {_name(blend)}", *row] for (blend, start, end), row in rows.items()]
    note = "Per cent, with the bootstrap's 95 % interval; –: no gap that is sure."
    return Table("What blending recovers of a gap", ("gap", *MEASURES, "both"), named, note)


def _percent(fraction: Fraction | None) -> str:
    if fraction is None:
        return "–"
    return f"{100 * fraction.value:.0f} ({100 * fraction.low:.0f} to {100 * fraction.high:.0f})"


def _rounded(fraction: Fraction) -> dict[str, float]:
    return {name: round(getattr(fraction, name), 6) for name in ("value", "low", "high")}


def _claim(claim: Claim) -> str:
    heading = f"{claim.text[0].upper()}{claim.text[1:]}: {claim.verdict}"
    return "\n".join([heading, *(f"  - {line}" for line in claim.reason.splitlines())])


def _line(effect: Effect) -> dict[str, Any]:
    return {**effect.as_dict(), "verdict": effect.verdict}


def _name(cell: Cell) -> str:
    if cell.pair is None:
        return f"base {cell.base}"
    return f"tuned {cell.base}" if cell.pair == cell.base else f"{cell.base}+{cell.pair}"
