"""The figures of a family's speed as one picture."""

from __future__ import annotations

from typing import TYPE_CHECKING

from eft_gguf.evaluation.plots import new_figure
from eft_gguf.speed.result import Speed

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#777777")
"""Told apart also by those who see no red or green: Okabe and Ito, 2008."""


def draw(speed: Speed) -> Figure:
    """Up to five panels: rates, batch cost, draft length, turns of a chat, several replies at once."""
    parts = [
        part
        for part, there in (
            (_rates, speed.alone),
            (_batches, speed.batch_cost),
            (_drafts, speed.drafts),
            (_turns, speed.turns),
            (_sequences, speed.aggregate),
        )
        if there
    ]
    columns = min(2, len(parts))
    rows = -(-len(parts) // columns)
    figure = new_figure(5 * columns, 3.5 * rows)
    for number, part in enumerate(parts, start=1):
        part(figure.add_subplot(rows, columns, number), speed)
    return figure


def _rates(axes: Axes, speed: Speed) -> None:
    rates = {name: 1 / alone.token.median for name, alone in speed.alone.items()}
    if speed.blend:
        rates["blend"] = 1 / speed.blend.token.median
    axes.bar(list(rates), list(rates.values()), color=[COLOURS[i % len(COLOURS)] for i in range(len(rates))])
    axes.set(title="Speed", ylabel="tokens a second")


def _batches(axes: Axes, speed: Speed) -> None:
    for number, (name, costs) in enumerate(speed.batch_cost.items()):
        relative = [costs[size].median / costs[1].median for size in costs]
        axes.plot(list(costs), relative, marker="o", label=name, color=COLOURS[number % len(COLOURS)])
    axes.set(title="Batch cost", xlabel="tokens in a decode", ylabel="decodes of one token", ylim=(0, None))
    axes.legend()


def _drafts(axes: Axes, speed: Speed) -> None:
    rates = {each.setting: 1 / each.token.median for each in speed.drafts}
    fixed = {int(setting): rate for setting, rate in rates.items() if setting.isdecimal()}
    axes.plot(list(fixed), list(fixed.values()), marker="o", label="as many in every round", color=COLOURS[0])
    for setting in rates.keys() - set(map(str, fixed)):
        axes.axhline(rates[setting], linestyle="--", label=setting, color=COLOURS[1])
    axes.set(title="Draft length", xlabel="tokens drafted a round", ylabel="tokens a second", ylim=(0, None))
    axes.legend()


def _turns(axes: Axes, speed: Speed) -> None:
    numbers = [str(turn.number) for turn in speed.turns]
    axes.bar(numbers, [1e3 * turn.first_token for turn in speed.turns], color=COLOURS[0])
    axes.set(title="First token of a chat's turns", xlabel="turn", ylabel="ms")


def _sequences(axes: Axes, speed: Speed) -> None:
    counts = [aggregate.sequences for aggregate in speed.aggregate]
    axes.plot(
        counts, [each.tokens_per_second for each in speed.aggregate], marker="o", label="measured", color=COLOURS[0]
    )
    axes.plot(counts, [each.allowed for each in speed.aggregate], "--", label="their decodes allow", color=COLOURS[-1])
    axes.set(title="Several replies at once", xlabel="replies", ylabel="tokens a second of all", ylim=(0, None))
    axes.legend()
