"""What reading token by token found, as a picture, after the paper's figure of total variation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from eft_gguf.evaluation.plots import COLOURS, new_figure, plain

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw(figures: Mapping[str, Any]) -> Figure:
    """Three panels: the histogram, change by place, and drafts. figures: those of `Tokens.as_dict`."""
    figure = new_figure(12, 4)
    histogram, places, drafts = figure.subplots(1, 3)
    _histogram(histogram, figures)
    _places(places, figures["places"])
    _drafts(drafts, figures["drafts"])
    return figure


def _histogram(axes: Any, figures: Mapping[str, Any]) -> None:
    counts = figures["histogram"]
    width, total = 1 / len(counts), sum(counts)
    shares = [100 * count / total for count in counts]
    axes.bar([width * (n + 0.5) for n in range(len(counts))], shares, width=0.9 * width, color=COLOURS["helpful"])
    axes.set(xlabel="total variation, tuned side to blend", ylabel="tokens, %", yscale="log", xlim=(0, 1))
    plain(axes)


def _places(axes: Any, places: list[dict[str, Any]]) -> None:
    for key, scale, label, colour in (
        ("changed", 100, "likeliest token changed, %", COLOURS["caution"]),
        ("total_variation", 100, "mean total variation, × 100", COLOURS["helpful"]),
    ):
        found = [place[key] for place in places]
        heights = [scale * one["value"] for one in found]
        errors = [[scale * abs(one["value"] - one[bound]) for one in found] for bound in ("low", "high")]
        style = {"marker": "o", "markersize": 4, "elinewidth": 0.8, "color": colour}
        axes.errorbar(range(len(places)), heights, yerr=errors, label=label, **style)
    axes.set_xticks(range(len(places)), [str(place["from"] + 1) for place in places])
    axes.set(xlabel="place in the reply, from token", ylim=(0, None))
    axes.legend(frameon=False)
    plain(axes)


def _drafts(axes: Any, drafts: list[dict[str, Any]]) -> None:
    lengths = [draft["length"] for draft in drafts]
    tokens = [draft["tokens_per_verification"] for draft in drafts]
    axes.plot(lengths, tokens, marker="o", markersize=4, color=COLOURS["facts"], label="greedy")
    axes.plot(lengths, [1 + n for n in lengths], linestyle=":", color=COLOURS["mixed"], label="if all were accepted")
    axes.set(xlabel="tokens drafted", ylabel="tokens a verification", ylim=(0, None))
    axes.legend(frameon=False)
    plain(axes)
