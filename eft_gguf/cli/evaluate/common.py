"""What the evaluations share: which questions, the time left, and where the figures go."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from eft_gguf.cli.display import Status, note
from eft_gguf.errors import OptionError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from eft_gguf.evaluation.asking import Scored
    from eft_gguf.evaluation.cases import Case
    from eft_gguf.evaluation.questions import Item
    from eft_gguf.evaluation.table import Table

Command = Callable[..., Any]


def questions_option(command: Command) -> Command:
    return click.option(
        "--questions",
        metavar="N|FILE",
        help="Ask N of the bundled questions, or those of a file.  [default: all 1,640 bundled]",
    )(command)


def run_option(command: Command) -> Command:
    return click.option(
        "--run",
        type=click.Path(dir_okay=False, path_type=Path),
        metavar="FILE",
        help="Keep all replies in FILE; where it exists, go on from it.",
    )(command)


def stopped(run: Path | None) -> NoReturn:
    """Leave after Ctrl-C, and say how to go on."""
    note(f"stopped; the same command goes on from {run}" if run else "stopped; --run FILE would keep what is done")
    raise click.exceptions.Exit(130)


def output_options(command: Command) -> Command:
    """--json, --plot, --page and --seed."""
    for option in (
        click.option(
            "--seed", type=int, default=0, metavar="N", help="Draws which questions, and their order.  [default: 0]"
        ),
        click.option(
            "--page",
            type=click.Path(dir_okay=False, path_type=Path),
            metavar="FILE.md",
            help="Put the tables into a page, between its marks.",
        ),
        click.option(
            "--plot",
            type=click.Path(dir_okay=False, path_type=Path),
            metavar="FILE",
            help="Draw a picture: .svg, .png or .pdf.",
        ),
        click.option("--json", "as_json", is_flag=True, help="Print one JSON object with every figure."),
    ):
        command = option(command)
    return command


def chosen_questions(text: str | None, seed: int) -> tuple[list[Item], dict[str, Any]]:
    """The questions to ask, in the order to ask them, and where they are from."""
    from eft_gguf.evaluation.asking import drawn
    from eft_gguf.evaluation.questions import QUESTIONS, read_questions
    from eft_gguf.evaluation.record import file_record

    path, count = QUESTIONS, None
    if text is not None:
        # A file called 100 can be named ./100.
        if text.lstrip("-").isdecimal():
            count = int(text)
            if count < 1:
                raise OptionError(f"{count} questions are none", hint="give 1 or more, or a file")
        else:
            path = Path(text).expanduser()
    items = read_questions(path)
    asked = drawn(items, count, seed)
    return asked, {**file_record(path), "chosen": len(asked), "seed": seed}


def require_leave(path: Path, cases: Sequence[Case], run_judges: bool) -> None:
    """A file from elsewhere must not start programs unasked."""
    judged = next((case for case in cases if case.judge), None)
    if judged and not run_judges:
        raise OptionError(
            f"{path}, line {judged.line} wants a command run: {' '.join(judged.judge)}",
            hint="if you trust the file, pass --run-judges",
        )


class Countdown(Status):
    """A status line that says how much is done, and how long the rest will take."""

    def __init__(self, what: str) -> None:
        super().__init__()
        self._what = what
        self._started = time.monotonic()

    def __enter__(self) -> Countdown:
        return self

    def progress(self, done: int, total: int) -> None:
        left = (time.monotonic() - self._started) / done * (total - done)
        self(f"{done:,} of {total:,} {self._what}, {duration(left)} left")


def duration(seconds: float) -> str:
    """As `1 min 20 s`."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def check_outputs(section: str, plot: Path | None, page: Path | None) -> None:
    """Raise now, before minutes of work, what `publish` would raise afterwards."""
    from eft_gguf.evaluation.plots import check_plot
    from eft_gguf.evaluation.table import split_page

    if plot:
        check_plot(plot)
    if page:
        split_page(section, page)


def publish(
    record: dict[str, Any],
    tables: Sequence[Table],
    said: str = "",
    *,
    as_json: bool,
    page: Path | None,
    plot: Path | None,
    draw: Callable[[], Figure],
) -> None:
    """Print what is said and the tables, or the record as JSON; put them into a page, and the picture into a file.

    said: conclusions, a line each; what belongs to one is indented below it.
    """
    opening = [said] if said else []
    if as_json:
        whole = {**record, "tables": [table.as_dict() for table in tables]}
        click.echo(json.dumps(whole, ensure_ascii=False))
    else:
        click.echo("\n\n".join([*opening, *(table.text() for table in tables)]))
    if page:
        from eft_gguf.evaluation.table import write_section

        items = "\n".join(line if line.startswith(" ") else f"- {line}" for line in said.splitlines())
        parts = [_made(record), items, *(table.markdown() for table in tables)]
        text = "\n\n".join(filter(None, parts))
        write_section(record["evaluation"], text, page)
        note(f"written: {page}")
    if plot:
        from eft_gguf.evaluation.plots import save

        save(draw(), plot)
        note(f"written: {plot}")


def _made(record: dict[str, Any]) -> str:
    """How figures were made, for a page: the command, the day, the machine."""
    machine = record["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in record["versions"].items())
    return (
        f"`{record['command']}`, {record['started'][:10]}: {record['questions']['asked']:,} questions in "
        f"{duration(record['seconds'])}; {machine['cpu']}; {machine['system']}; {versions}."
    )


def finish(scored: Scored, record: dict[str, Any]) -> None:
    """Say how much was asked; with exit code 130 where Ctrl-C came in between."""
    asked = f"{record['questions']['asked']:,}"
    if scored.interrupted:
        note(f"stopped after {asked} of {record['questions']['chosen']:,} questions: the figures are for these")
        raise click.exceptions.Exit(130)
    note(f"{asked} questions in {duration(record['seconds'])}")
