"""The frontier as a picture: the trade-off itself, and every measure along both sweeps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from eft_gguf.evaluation.plots import COLOURS, new_figure, plain

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LINES = ("single facts", "helpful", "caution")


Points = Sequence[Mapping[str, Any]]


def draw(record: Mapping[str, Any]) -> Figure:
    """Three panels: helpfulness against caution, and the measures over λ and over `behaviour`, in per cent.

    record: of a frontier, as `--json` prints it.
    """
    start, end, points = record["from"], record["to"], record["points"]
    traits = [point for point in points if point["sweep"] == "lambda"]
    dial = [point for point in points if point["sweep"] == "behaviour"]
    figure = new_figure(12, 4) if dial else new_figure(8, 4)
    panels = figure.subplots(1, 3 if dial else 2)
    _trade_off(panels[0], traits)
    _sweep(panels[1], traits, f"λ: {start} 1 − λ, {end} λ")
    if dial:
        _sweep(panels[2], dial, "behaviour")
    figure.legend(*panels[1].get_legend_handles_labels(), frameon=False, loc="outside lower center", ncols=len(LINES))
    return figure


def _trade_off(axes: Any, points: Points) -> None:
    across, upwards = (_series(points, measure) for measure in ("helpful", "caution"))
    axes.errorbar(
        across[0], upwards[0], xerr=across[1], yerr=upwards[1], marker="o", markersize=4, color="black", elinewidth=0.8
    )
    for point, x, y in zip(points, across[0], upwards[0], strict=True):
        if point["value"] in (0, 0.5, 1):
            axes.annotate(f"λ = {point['value']:g}", (x, y), textcoords="offset points", xytext=(8, 8), fontsize=9)
    axes.set(xlabel="helpful, %", ylabel="caution, %", ylim=(-3, 103))
    axes.margins(x=0.15)
    plain(axes)


def _sweep(axes: Any, points: Points, label: str) -> None:
    values = [point["value"] for point in points]
    for measure in LINES:
        heights, errors = _series(points, measure)
        low = [height - below for height, below in zip(heights, errors[0], strict=True)]
        high = [height + above for height, above in zip(heights, errors[1], strict=True)]
        axes.fill_between(values, low, high, color=COLOURS[measure], alpha=0.2, linewidth=0)
        axes.plot(values, heights, marker="o", markersize=3, color=COLOURS[measure], label=measure)
    axes.set(xlabel=label, ylabel="%", ylim=(-3, 103))
    plain(axes)


def _series(points: Points, measure: str) -> tuple[list[float], list[list[float]]]:
    """Heights in per cent, and the distances of the interval's bounds below and above them."""
    shares = [point["scores"].get(measure, {"share": 0.0, "low": 0.0, "high": 1.0}) for point in points]
    heights = [100 * share["share"] for share in shares]
    below, above = ([100 * abs(share["share"] - share[bound]) for share in shares] for bound in ("low", "high"))
    return heights, [below, above]
