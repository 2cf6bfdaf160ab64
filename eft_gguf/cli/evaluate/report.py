"""`eft-gguf evaluate report`: one HTML page of runs."""

from __future__ import annotations

from pathlib import Path

import click

from eft_gguf.cli.display import note
from eft_gguf.errors import OptionError


@click.command(short_help="One HTML page of a run, or of several.")
@click.argument("files", nargs=-1, required=True, type=click.Path(dir_okay=False, path_type=Path))
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    default=Path("report.html"),
    metavar="FILE.html",
    help="Where the page goes.  [default: report.html]",
)
def report(files: tuple[Path, ...], output: Path) -> None:
    """Make one page of FILES, each what an evaluation kept with --run or printed with --json.

    It holds verdicts, pictures (with matplotlib), tables, replies and what a repetition needs, and loads nothing.
    """
    from eft_gguf.evaluation.report import page, read_document
    from eft_gguf.files import write_aside

    if output.resolve() in [path.resolve() for path in files]:
        raise OptionError(f"{output} is one of the files to read", hint="name another file with --output")
    write_aside(output, page([read_document(path) for path in files]))
    note(f"written: {output}")
