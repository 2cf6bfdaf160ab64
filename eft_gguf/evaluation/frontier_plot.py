"""The frontier as a picture: the trade-off itself, and every measure along both sweeps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from eft_gguf.evaluation.asking import Scored
from eft_gguf.evaluation.frontier import Point
from eft_gguf.evaluation.plots import COLOURS, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LINES = ("single facts", "helpful", "caution")


def draw(points: Sequence[Point], scored: Scored, start: str, end: str) -> Figure:
    """Three panels: helpfulness against caution, and the measures over λ and over `behaviour`, in per cent."""
    traits = [setting for setting, point in enumerate(points) if point.sweep == "lambda"]
    dial = [setting for setting, point in enumerate(points) if point.sweep == "behaviour"]
    figure = new_figure(12, 4) if dial else new_figure(8, 4)
    panels = figure.subplots(1, 3 if dial else 2)
    _trade_off(panels[0], points, scored, traits)
    _sweep(panels[1], points, scored, traits, f"λ: {start} 1 − λ, {end} λ")
    if dial:
        _sweep(panels[2], points, scored, dial, "behaviour")
    figure.legend(*panels[1].get_legend_handles_labels(), frameon=False, loc="outside lower center", ncols=len(LINES))
    return figure


def _trade_off(axes: Any, points: Sequence[Point], scored: Scored, settings: Sequence[int]) -> None:
    across, upwards = (_series(scored, measure, settings) for measure in ("helpful", "caution"))
    axes.errorbar(
        across[0], upwards[0], xerr=across[1], yerr=upwards[1], marker="o", markersize=4, color="black", elinewidth=0.8
    )
    for setting, x, y in zip(settings, across[0], upwards[0], strict=True):
        if points[setting].value in (0, 0.5, 1):
            axes.annotate(
                f"λ = {points[setting].value:g}", (x, y), textcoords="offset points", xytext=(8, 8), fontsize=9
            )
    axes.set(xlabel="helpful, %", ylabel="caution, %", ylim=(-3, 103))
    axes.margins(x=0.15)
    _plain(axes)


def _sweep(axes: Any, points: Sequence[Point], scored: Scored, settings: Sequence[int], label: str) -> None:
    values = [points[setting].value for setting in settings]
    for measure in LINES:
        heights, errors = _series(scored, measure, settings)
        low = [height - below for height, below in zip(heights, errors[0], strict=True)]
        high = [height + above for height, above in zip(heights, errors[1], strict=True)]
        axes.fill_between(values, low, high, color=COLOURS[measure], alpha=0.2, linewidth=0)
        axes.plot(values, heights, marker="o", markersize=3, color=COLOURS[measure], label=measure)
    axes.set(xlabel=label, ylabel="%", ylim=(-3, 103))
    _plain(axes)


def _series(scored: Scored, measure: str, settings: Sequence[int]) -> tuple[list[float], list[list[float]]]:
    """Heights in per cent, and the distances of the interval's bounds below and above them."""
    shares = [scored.share(setting, measure) for setting in settings]
    heights = [100 * share.value for share in shares]
    bounds = [share.interval for share in shares]
    below = [max(0.0, height - 100 * low) for height, (low, _) in zip(heights, bounds, strict=True)]
    above = [max(0.0, 100 * high - height) for height, (_, high) in zip(heights, bounds, strict=True)]
    return heights, [below, above]


def _plain(axes: Any) -> None:
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
