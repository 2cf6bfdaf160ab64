"""An inspection in a terminal: the reply coloured by who decided, the most disputed tokens, the summary."""

from __future__ import annotations

import io
import json
import re
import sys
from typing import TYPE_CHECKING

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from eft_gguf.cli.display import printable

if TYPE_CHECKING:
    from eft_gguf.inspection import InspectedToken, Inspection, Summary

# A sign as well as a colour: without colours the row of signs still tells where each decision fell.
STYLES = {
    "both": ("·", "default"),
    "base": ("B", "bold blue"),
    "tuned": ("T", "bold green"),
    "blend": ("+", "bold magenta"),
    "chance": ("?", "bold red"),
}
MEANINGS = {
    "both": "base and tuned alike",
    "base": "base alone",
    "tuned": "tuned alone",
    "blend": "only both together",
    "chance": "not the blend's first choice",
}
DISPUTED = 8


def show(inspection: Inspection) -> str:
    """The view as text for stdout, 80 columns wide at most; click drops its colours where they are not wanted."""
    parts: list[RenderableType] = [_reply(inspection), "", _legend(inspection.summary), "", _signs(inspection), ""]
    parts += [_disputed(inspection), "", _means(inspection)]
    stream = io.StringIO()
    width = min(80, Console(file=sys.stdout).width)
    Console(file=stream, width=width, force_terminal=True, color_system="standard", highlight=False).print(
        Group(*parts)
    )
    # Tables pad their lines to equal length.
    return re.sub(r" +((?:\x1b\[\d*m)*)$", r"\1", stream.getvalue(), flags=re.MULTILINE)


def _reply(inspection: Inspection) -> Text:
    text = Text()
    for token in inspection.tokens:
        text.append(printable(token.text).replace("\n", "↵\n"), style=STYLES[token.decided_by][1])
    return text


def _legend(summary: Summary) -> Table:
    table = Table.grid(padding=(0, 2))
    for name, (sign, style) in STYLES.items():
        row = (sign, name, f"{100 * summary.shares[name]:.0f} %", MEANINGS[name])
        table.add_row(*(Text(cell, style=style if summary.shares[name] else "dim") for cell in row))
    return table


def _signs(inspection: Inspection) -> Text:
    text = Text("where, a sign for each token:\n", style="dim")
    for token in inspection.tokens:
        sign, style = STYLES[token.decided_by]
        text.append(sign, style=style)
    return text


def _disputed(inspection: Inspection) -> Table:
    """The tokens before which the blend was farthest from base or a trait: their probabilities, and what else."""
    further = [name for name in inspection.tokens[0].probabilities if name.startswith("untuned.")]
    shown = ("base", "untuned", *inspection.voices[1:], *further, "blend")
    table = Table(
        box=None,
        header_style="dim",
        padding=(0, 1, 0, 0),
        title_style="dim",
        title="the most disputed tokens, probabilities in %",
        title_justify="left",
    )
    table.add_column("at", justify="right", no_wrap=True)
    table.add_column("token", no_wrap=True)
    table.add_column("by", no_wrap=True)
    for name in shown:
        table.add_column(name, justify="right", no_wrap=True)
    # Two columns of words are what 80 columns hold.
    voices = inspection.voices if len(inspection.voices) <= 2 else ()
    for name in voices:
        table.add_column(f"{name} says", no_wrap=True)
    for place in inspection.most_disputed(DISPUTED):
        token = inspection.tokens[place]
        choices = [token.alternatives[name][0].text for name in voices]
        table.add_row(
            str(place + 1),
            Text(_quoted(_own_text(token)), style=STYLES[token.decided_by][1]),
            Text(token.decided_by, style=STYLES[token.decided_by][1]),
            *(f"{100 * token.probabilities[name]:.1f}" for name in shown),
            *(Text(_quoted(choice)) for choice in choices),
        )
    return table


def _means(inspection: Inspection) -> Table:
    """The distance of each member from the blend, over the reply."""
    summary = inspection.summary
    table = Table(box=None, header_style="dim", padding=(0, 1, 0, 0))
    table.add_column("mean over the reply", no_wrap=True)
    for name in summary.mean_kl:
        table.add_column(name, justify="right")
    table.add_row("total variation to the blend", *(f"{value:.3f}" for value in summary.mean_total_variation.values()))
    table.add_row("KL(blend ‖ model), nats", *(f"{value:.3f}" for value in summary.mean_kl.values()))
    return table


def _own_text(token: InspectedToken) -> str:
    """A token in the middle of a character adds no text: then as the models' lists have it."""
    listed = (other.text for others in token.alternatives.values() for other in others if other.token == token.token)
    return token.text or next(listed, "")


def _quoted(text: str) -> str:
    """In quotes, so that spaces are seen, and short."""
    quoted = json.dumps(printable(text), ensure_ascii=False)
    return quoted if len(quoted) <= 12 else quoted[:11] + "…"
