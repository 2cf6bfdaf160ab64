"""What conversions show and take: a bar, --force, --json."""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from eft_gguf import files
from eft_gguf.cli.display import note

PATH = click.Path(path_type=Path)


def output_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options of all commands that write files; `KeyboardInterrupt` becomes one word and exit code 130."""

    @functools.wraps(command)
    def guarded(**arguments: Any) -> Any:
        try:
            return command(**arguments)
        except KeyboardInterrupt:
            note("stopped; nothing was written")
            raise click.exceptions.Exit(130) from None

    decorated: Callable[..., Any] = guarded
    decorated = click.option("--json", "as_json", is_flag=True, help="Print one JSON object about what was made.")(
        decorated
    )
    return click.option("--force", is_flag=True, help="Replace an output that exists.")(decorated)


text_option = click.option("--text", type=PATH, metavar="FILE", help="What to compare on.  [default: a short story]")


def read_text(path: Path | None) -> str:
    """A text of the user's, empty where none was named. Raises UsageError."""
    if path is None:
        return ""
    try:
        return files.read_text(path)
    except (OSError, UnicodeDecodeError) as error:
        raise click.UsageError(f"cannot read {path}: {error}") from None


@contextmanager
def bar() -> Iterator[Callable[[str, float], None]]:
    """A progress bar on stderr, gone afterwards; silent where that is no terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    shown = sys.stderr.isatty()
    with Progress(*columns, console=Console(stderr=True), transient=True, disable=not shown) as progress:
        task = progress.add_task("reading", total=1.0)
        yield lambda what, done: progress.update(task, description=what, completed=done)


def tell(record: dict[str, Any], text: str, *, as_json: bool) -> None:
    """What was made: as JSON on stdout, or as lines with the notes on stderr."""
    if as_json:
        click.echo(json.dumps(record, ensure_ascii=False))
        return
    click.echo(text)
    for line in record.get("notes", ()):
        note(f"note: {line}")


def size(count: int) -> str:
    """Bytes in words."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= scale:
            return f"{count / scale:.1f} {unit}"
    return f"{count} bytes"
