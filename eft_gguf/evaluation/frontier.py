"""The trade-off between two traits, and what turning `behaviour` up or down does, measured.

The paper's second promise (Mitchell et al., arXiv 2310.12962) is that competing traits can be adjusted while
sampling, without training: λ goes from one trait alone to the other alone, with weights 1 − λ and λ.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from eft_gguf.blend.equation import Blend
from eft_gguf.errors import OptionError
from eft_gguf.evaluation.asking import Scored
from eft_gguf.evaluation.table import Table
from eft_gguf.models.family import BUNDLED, Family

COLUMNS = ("facts", "single facts", "helpful", "caution", "mixed")
STEPS = 11
BEHAVIOURS = tuple(step / 4 for step in range(9))


@dataclass(frozen=True, slots=True)
class Point:
    """One setting of a sweep: the value of λ or of `behaviour`, and the blend that it makes."""

    sweep: str  # "lambda" or "behaviour"
    value: float
    blend: Blend


def trait_sweep(family: Family, start: str, end: str, steps: int, blend: Blend) -> list[Point]:
    """`steps` points from trait `start` alone to trait `end` alone; all other traits at 0. Raises OptionError."""
    names = [trait.name for trait in family.tuned]
    if start == end:
        raise OptionError(f"both ends are the trait {start}", hint=f"name two of {', '.join(names)}")
    if steps < 2:
        raise OptionError(f"{steps} steps make no way from {start} to {end}", hint="give 2 or more")
    points = []
    for step in range(steps):
        # So that 0.3 is 0.3 and both ends are exact.
        value = round(step / (steps - 1), 12)
        traits = dict.fromkeys(names, 0.0) | {start: 1.0 - value, end: value}
        point = Point("lambda", value, replace(blend, traits=traits))
        point.blend.weights(dict.fromkeys(names, 0.0))  # an unknown trait is told now
        points.append(point)
    return points


def behaviour_sweep(values: Sequence[float], blend: Blend) -> list[Point]:
    """A point for each value of `behaviour`, with the family's own trait weights. Raises OptionError."""
    return [Point("behaviour", value, replace(blend, behaviour=value)) for value in values]


def ends(family: Family, start: str | None, end: str | None) -> tuple[str, str]:
    """The two traits to go between: those named, else the family's first ones. Raises OptionError."""
    names = [trait.name for trait in family.tuned]
    if len(names) < 2:
        raise OptionError(
            f"family {family.name} has one trait, {names[0]}: a frontier lies between two",
            hint="name a family with two tuned models, or give --tuned twice",
        )
    start = start or next(name for name in names if name != end)
    return start, end or next(name for name in names if name != start)


def caveat(family: Family) -> str | None:
    """What must be said where the scorers do not know the family's traits."""
    if family.path == BUNDLED:
        return None
    return (
        "the scorers know the bundled family's manners only: 'helpful' is its openers and closings, 'caution' its "
        "hedges. Of other families they tell the facts, and these only for questions in its wording"
    )


def tables(points: Sequence[Point], scored: Scored, start: str, end: str) -> list[Table]:
    """A table for each sweep; a row for each of its points."""
    made = []
    for sweep, heading, title in (
        ("lambda", "λ", f"From {start} (λ = 0) to {end} (λ = 1)"),
        ("behaviour", "behaviour", "The dial behaviour, with the family's own weights"),
    ):
        chosen = [setting for setting, point in enumerate(points) if point.sweep == sweep]
        if not chosen:
            continue
        asked = ["asked", *(f"{scored.share(chosen[0], measure).asked:,}" for measure in COLUMNS)]
        rows = [
            [f"{points[setting].value:g}", *(scored.share(setting, measure).text() for measure in COLUMNS)]
            for setting in chosen
        ]
        made.append(Table(title, [heading, *COLUMNS], [asked, *rows]))
    note = "Per cent, with Wilson's 95 % interval. Greedy replies to held-out questions."
    return [*made[:-1], replace(made[-1], note=note)] if made else []


def points_record(points: Sequence[Point], scored: Scored, weights: dict[str, float]) -> list[dict[str, Any]]:
    """Every point with its dials and counts, as plain values. weights: the family's own, by trait."""
    return [
        {
            "sweep": point.sweep,
            "value": point.value,
            "dials": {
                "knowledge": point.blend.knowledge,
                "behaviour": point.blend.behaviour,
                "traits": weights | dict(point.blend.traits),
                "filter": {
                    name: value
                    for name in ("tuned_top_p", "base_top_p", "base_min_p", "untuned_floor")
                    if (value := getattr(point.blend.filter, name)) is not None
                },
            },
            **scored.as_dict(setting),
        }
        for setting, point in enumerate(points)
    ]
