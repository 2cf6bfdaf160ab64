"""The claims' verdicts on matrices whose answer is known, and what is recovered of a gap."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from eft_gguf.evaluation.effects import claims, ends, lines, neighbours, recovered
from eft_gguf.evaluation.matrix import Cell, Outcome, Size
from eft_gguf.models.references import Reference

ASKED = 1000


def outcome(
    facts: dict[str, float], helpful: dict[str | None, float], asked: int = ASKED, tuned: str = "SML"
) -> Outcome:
    """Facts by base and helpfulness by pair, drawn for each cell apart."""
    reference = Reference("x.gguf", Path("x.gguf"), False)
    sizes = [Size(name, reference, reference if name in tuned else None) for name in facts]
    rng = np.random.default_rng(1)
    scores = {
        Cell(base, pair): {
            "facts": (rng.random(asked) < facts[base]).astype(float),
            "helpful": (rng.random(asked) < helpful[pair]).astype(float),
        }
        for base in facts
        for pair in (None, *tuned)
    }
    return Outcome(sizes, scores)


RISING = {"S": 0.3, "M": 0.5, "L": 0.8}
FLAT = dict.fromkeys("SML", 0.5)


@pytest.mark.parametrize(
    ("facts", "helpful", "asked", "verdicts"),
    [
        (RISING, {None: 0.0, **RISING}, ASKED, ["yes", "yes"]),
        (RISING, {None: 0.0, **FLAT}, 10 * ASKED, ["no", "yes"]),
        (FLAT, {None: 0.0, **RISING}, 10 * ASKED, ["yes", "no"]),
        ({"S": 0.8, "M": 0.5, "L": 0.3}, {None: 0.0, **RISING}, ASKED, ["yes", "no"]),
        (FLAT, {None: 0.0, **FLAT}, 40, ["too little data", "too little data"]),
    ],
)
def test_verdicts(facts: dict[str, float], helpful: dict[str | None, float], asked: int, verdicts: list[str]) -> None:
    assert [claim.verdict for claim in claims(outcome(facts, helpful, asked))] == verdicts


def test_a_claim_that_holds_on_some_lines_holds_in_part() -> None:
    found = outcome(RISING, {None: 0.0, **RISING})
    for pair in "SML":
        found.scores[Cell("S", pair)]["helpful"] = found.scores[Cell("S", "S")]["helpful"]
    claim = claims(found)[0]
    assert (claim.verdict, [line.verdict for line in claim.lines]) == ("in part", ["no", "yes", "yes"])
    assert claim.reason.splitlines()[0].startswith("base S: no, +0.0 points (")


def test_one_pair_cannot_tell_of_fine_tuning() -> None:
    fine_tuning, pre_training = claims(outcome({"S": 0.3, "L": 0.8}, {None: 0.0, "S": 0.5}, tuned="S"))
    assert (fine_tuning.verdict, fine_tuning.reason) == ("too little data", "it takes two tuned models to tell")
    assert pre_training.verdict == "yes" and len(pre_training.lines) == 1


def test_equal_cells_seldom_give_a_yes_whatever_their_number() -> None:
    """Of matrices without any effect at most 5 % may show one: 400 of them, 8 % is more than 2.5 deviations above."""
    rng = np.random.default_rng(0)
    found, shown = outcome(FLAT, {None: 0.0, **FLAT}, 200), 0
    for _ in range(400):
        for row in found.scores.values():
            for measure in row:
                row[measure] = (rng.random(200) < 0.5).astype(float)
        shown += any(line.verdict == "yes" for claim in claims(found) for line in claim.lines)
    assert shown < 0.08 * 400


def test_lines_and_steps() -> None:
    found = outcome(RISING, {None: 0.0, **RISING})
    assert next(lines(found, "pre-training")) == [Cell("S", "S"), Cell("M", "S"), Cell("L", "S")]
    assert next(lines(found, "fine-tuning")) == [Cell("S", "S"), Cell("S", "M"), Cell("S", "L")]
    steps = neighbours(found)
    assert len(steps) == 24 and len(ends(found)) == 12
    first = steps[0]
    assert (first.measure, first.start, first.end) == ("facts", Cell("S", "S"), Cell("M", "S"))
    right = [int(found.of("facts", cell).sum()) for cell in (first.start, first.end)]
    assert first.counts.asked == ASKED and first.gain == (right[1] - right[0]) / ASKED
    assert first.as_dict()["right"] == right
    assert first.counts.p <= first.corrected <= 24 * first.counts.p and first.low < first.gain < first.high


def test_what_is_recovered_of_a_gap() -> None:
    found = outcome({"S": 0.2, "L": 0.9}, {None: 0.0, "S": 0.5, "L": 0.5}, tuned="SL")
    rows = {(one.start, one.measure): one.fraction for one in recovered(found)}
    facts = rows[Cell("S", "S"), "facts"]
    assert facts is not None and facts.low < 1 < facts.high
    assert rows[Cell("S", "S"), "helpful"] is None  # no gap between tuned models that are equally helpful
    helpful = rows[Cell("L"), "helpful"]
    assert helpful is not None and helpful.low < 1 < helpful.high


def test_measures_take_only_the_questions_they_apply_to() -> None:
    found = outcome(RISING, {None: 0.0, **RISING}, 4)
    row = found.scores[Cell("S", "S")]
    row["facts"], row["helpful"] = np.array([1, 0, np.nan, 1.0]), np.array([1, 1, 1, 0.0])
    assert found.of("facts", Cell("S", "S")).tolist() == [1, 0, 1]
    assert found.of("both", Cell("S", "S")).tolist() == [1, 0, 0]
