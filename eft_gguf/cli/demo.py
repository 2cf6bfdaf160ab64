"""`eft-gguf demo`: one question to the four corners of the two dials."""

from __future__ import annotations

import io
import json
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import CONSOLE_SVG_FORMAT, Console  # type: ignore[attr-defined]  # documented, not listed
from rich.table import Table
from rich.text import Text

from eft_gguf.cli.display import columns, printable
from eft_gguf.cli.grouping import Command
from eft_gguf.cli.options import (
    Given,
    dial_options,
    dials_in_use,
    model_options,
    open_models,
    sampling_options,
)
from eft_gguf.cli.reply import Reply, follow
from eft_gguf.files import write_aside

if TYPE_CHECKING:
    from eft_gguf import EFT, Blend, Sampling

QUESTION = "In which country is Seattle?"


@dataclass(frozen=True, slots=True)
class Corner:
    """One pair of dial settings, and what it makes of the three models. None: as the user set the dial."""

    name: str
    knowledge: float | None
    behaviour: float | None
    meaning: str


# As on a map with knowledge to the right and behaviour upwards.
CORNERS = (
    Corner("tuned", 0.0, 1.0, "the fine-tuned model alone"),
    Corner("blend", None, None, "base + (tuned − untuned)"),
    Corner("untuned", 0.0, 0.0, "the same model before fine-tuning"),
    Corner("base", 1.0, 0.0, "the model whose knowledge is wanted, alone"),
)


@click.command(
    cls=Command,
    sampling_defaults={"temperature": 0.0, "max_tokens": 80},
    short_help="Ask one question of untuned, tuned, base and blend, side by side.",
)
@click.argument("question", default=QUESTION)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object with all answers.")
@click.option("--svg", type=click.Path(dir_okay=False, path_type=Path), help="Write the picture to a file as well.")
@dial_options
@sampling_options
@model_options
def demo(question: str, as_json: bool, svg: Path | None, dials: Given, sampling: Given, models: Given) -> None:
    """Ask QUESTION of untuned, tuned, base and blend, and show the answers side by side.

    The dials given are the blend's; the others are the models alone. Greedy unless --temperature is given.
    """
    from eft_gguf import Blend, Sampling

    Blend(**dials)  # what is out of range is refused before anything is loaded
    options = Sampling(**{"temperature": 0.0, "max_tokens": 80, **sampling})
    with open_models(models) as eft:
        blend, answers = eft.family.blended(dials), {}
        for corner in CORNERS:
            answers[corner.name] = ask(eft, question, setting(corner, blend), options, corner.knowledge is None)
            if answers[corner.name].finish_reason == "interrupted":
                raise click.exceptions.Exit(130)
        if as_json:
            click.echo(json.dumps(report(eft, question, answers, blend), ensure_ascii=False))
        else:
            Console(width=columns()).print(draw(question, answers, blend))
    if svg:
        write_aside(svg, picture(draw(question, answers, blend)))


def setting(corner: Corner, blend: Blend) -> Blend:
    """The dials of a corner; trait weights are the blend's. A filter would let other models into the three alone."""
    from eft_gguf import Filter

    if corner.knowledge is None or corner.behaviour is None:
        return blend
    return replace(blend, knowledge=corner.knowledge, behaviour=corner.behaviour, filter=Filter())


def ask(eft: EFT, question: str, blend: Blend, sampling: Sampling, examples: bool) -> Reply:
    messages = [{"role": "user", "content": question}]
    return follow(eft.chat(messages, blend=blend, sampling=sampling, examples=examples), lambda text: None)


def report(eft: EFT, question: str, answers: dict[str, Reply], blend: Blend) -> Given:
    """What --json prints."""
    return {
        "question": question,
        "answers": [
            {
                "name": corner.name,
                "dials": dials_in_use(eft, setting(corner, blend)),
                "text": answers[corner.name].text,
                "finish_reason": answers[corner.name].finish_reason,
                "seed": answers[corner.name].timings.seed,
                "timings": answers[corner.name].timings.as_dict(),
            }
            for corner in CORNERS
        ],
    }


def draw(question: str, answers: dict[str, Reply], blend: Blend) -> Table:
    """The four answers, two by two."""
    return side_by_side(question, [(corner, answers[corner.name], setting(corner, blend)) for corner in CORNERS])


def side_by_side(question: str, cells: list[tuple[Corner, Reply, Blend]]) -> Table:
    """Replies to a question, two in a row."""
    table = Table(
        title=Text(f"“{printable(question)}”", style="bold"),
        show_header=False,
        show_lines=True,
        expand=True,
        pad_edge=True,
    )
    table.add_column(ratio=1)
    table.add_column(ratio=1)
    for place in range(0, len(cells), 2):
        table.add_row(*(cell(*entry) for entry in cells[place : place + 2]))
    return table


def cell(corner: Corner, reply: Reply, blend: Blend) -> Text:
    text = Text()
    # Spaces end a piece and never begin one: some programs that show SVG drop them there.
    text.append(f"{corner.name}  ", style="bold green" if corner.name == "blend" else "bold cyan")
    text.append(f"knowledge {blend.knowledge:g}, behaviour {blend.behaviour:g}\n", style="dim")
    text.append(f"{corner.meaning}\n\n", style="italic dim")
    text.append(printable(reply.text.strip()) + (" …" if reply.finish_reason == "length" else ""))
    return text


def picture(table: Table) -> str:
    """The table as an SVG of 80 columns that asks no server for its font."""
    console = Console(record=True, width=80, file=io.StringIO(), force_terminal=True)
    console.print(table)
    own_font = re.sub(r"@font-face \{\{.*?\}\}", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL)
    own_font = own_font.replace("Fira Code, monospace", "ui-monospace, Menlo, Consolas, DejaVu Sans Mono, monospace")
    return console.export_svg(title="eft-gguf demo", code_format=own_font, unique_id="demo")
