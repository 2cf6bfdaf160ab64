"""What a gate found, as a picture: each system's successes, right answers and kept forms."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from eft_gguf.evaluation.plots import COLOURS, new_figure, plain

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MEASURES = {"success": COLOURS["caution"], "accuracy": COLOURS["facts"], "form": COLOURS["helpful"]}


def draw(figures: Mapping[str, Any]) -> Figure:
    """Bars with 95 % intervals, in per cent. figures: the `record` of a gate's result."""
    systems = list(reversed(figures["systems"].items()))
    figure = new_figure(9, 1.2 + 0.6 * len(systems))
    axes = figure.subplots()
    for place, (measure, colour) in enumerate(MEASURES.items()):
        rows = [(y, one[measure]) for y, (_, one) in enumerate(systems) if one[measure]]
        values = [100 * share["share"] for _, share in rows]
        errors = [[100 * abs(share["share"] - share[bound]) for _, share in rows] for bound in ("low", "high")]
        at = [y + 0.25 * (1 - place) for y, _ in rows]
        axes.barh(at, values, xerr=errors, height=0.22, color=colour, label=measure, error_kw={"elinewidth": 0.8})
    axes.set_yticks(range(len(systems)), [name for name, _ in systems])
    axes.set(xlabel="%", xlim=(0, 103))
    figure.legend(frameon=False, loc="outside lower center", ncols=len(MEASURES))
    plain(axes)
    return figure
