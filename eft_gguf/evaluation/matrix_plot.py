"""The matrix as a picture: a field for each cell, and each measure along both scales."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from eft_gguf.evaluation.plots import COLOURS, new_figure, plain

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TITLES = {"facts": "factuality", "helpful": "helpfulness"}


def draw(figures: Mapping[str, Any]) -> Figure:
    """Two maps, and the measures over both scales, in per cent. figures: those of `matrix_tables.figures`."""
    cells = {(cell["base"], cell["pair"]): cell for cell in figures["cells"]}
    bases = list(dict.fromkeys(base for base, _ in cells))
    pairs = list(dict.fromkeys(pair for _, pair in cells if pair is not None))
    figure = new_figure(11, 7)
    panels = figure.subplots(2, 2, height_ratios=(1, 1))
    for axes, measure in zip(panels[0], TITLES, strict=True):
        _map(axes, cells, bases, pairs, measure)
    _lines(panels[1][0], cells, "facts", bases, [(f"pair {pair}", [(base, pair) for base in bases]) for pair in pairs])
    panels[1][0].set(xlabel="pre-training scale (base)")
    along = [(f"base {base}", [(base, pair) for pair in pairs]) for base in bases]
    _lines(panels[1][1], cells, "helpful", pairs, along)
    panels[1][1].set(xlabel="fine-tuning scale (pair)")
    return figure


def _map(axes: Any, cells: Mapping[Any, Any], bases: Sequence[str], pairs: Sequence[str], measure: str) -> None:
    from matplotlib.colors import LinearSegmentedColormap

    columns: list[str | None] = [None, *pairs]
    shares = [[100 * cells[base, pair][measure]["share"] for pair in columns] for base in bases]
    colours = LinearSegmentedColormap.from_list(measure, ["white", COLOURS[measure]])
    axes.pcolormesh(shares, cmap=colours, vmin=0, vmax=115, edgecolors="white", linewidth=2)
    for y, base in enumerate(bases):
        for x, pair in enumerate(columns):
            cell = cells[base, pair]
            low, high = (100 * cell[measure][bound] for bound in ("low", "high"))
            tuned = "\ntuned" if cell["kind"] == "tuned" else ""
            text = f"{shares[y][x]:.0f}\n{low:.0f}–{high:.0f}{tuned}"
            # A label on a coloured field: black on white's side, whatever the page's colours are.
            axes.text(x + 0.5, y + 0.5, text, ha="center", va="center", fontsize=9, color="#111111")
    axes.set_xticks([x + 0.5 for x in range(len(columns))], ["alone", *(f"pair {pair}" for pair in pairs)])
    axes.set_yticks([y + 0.5 for y in range(len(bases))], [f"base {base}" for base in bases])
    axes.set(title=f"{TITLES[measure]}, %")
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)


def _lines(
    axes: Any,
    cells: Mapping[Any, Any],
    measure: str,
    ticks: Sequence[str],
    lines: Sequence[tuple[str, Sequence[tuple[str, str]]]],
) -> None:
    styles = ("-", "--", ":", "-.")
    for number, (label, line) in enumerate(lines):
        found = [cells[place][measure] for place in line]
        heights = [100 * one["share"] for one in found]
        errors = [[100 * abs(one["share"] - one[bound]) for one in found] for bound in ("low", "high")]
        axes.errorbar(
            range(len(line)),
            heights,
            yerr=errors,
            marker="o",
            markersize=4,
            linestyle=styles[number % len(styles)],
            color=COLOURS[measure],
            elinewidth=0.8,
            label=label,
        )
    axes.set_xticks(range(len(ticks)), ticks)
    axes.set(ylabel=f"{TITLES[measure]}, %", ylim=(-3, 103))
    axes.margins(x=0.15)
    axes.legend(frameon=False, loc="upper left")
    plain(axes)
