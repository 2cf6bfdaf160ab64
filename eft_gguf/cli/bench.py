"""`eft-gguf bench`: how fast a family is on this machine."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from eft_gguf.cli.display import Status, note
from eft_gguf.cli.grouping import Command
from eft_gguf.cli.options import Given, check_models, model_options
from eft_gguf.cli.reply import interruption

if TYPE_CHECKING:
    from eft_gguf.speed.result import Speed


class Interrupted(Exception):
    """Ctrl-C came; what was measured before is kept."""


@click.command(cls=Command, short_help="Measure how fast models and blend are here.")
@click.option("--quick", is_flag=True, help="Take fewer measurements.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object with all figures.")
@click.option(
    "--plot", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE", help="Draw them: .svg, .png or .pdf."
)
@model_options
def bench(quick: bool, as_json: bool, plot: Path | None, models: Given) -> None:
    """Measure how fast each model and the blend are on this machine, and what batches of tokens cost.

    Keep the machine quiet meanwhile: other work shows in every figure.
    """
    check_models(models)
    from eft_gguf.evaluation.machine import busy_cores, describe, versions
    from eft_gguf.speed.measure import measure_speed
    from eft_gguf.speed.result import Speed

    if plot:
        from eft_gguf.evaluation.plots import check_plot

        check_plot(plot)
    busy = busy_cores()
    if busy > 0.2:
        note(f"other work keeps {busy:.1f} cores busy: times will be too long")
    started = time.monotonic()
    speed = Speed()
    stopped = False
    with Status() as status, interruption() as interrupted:

        def tick(what: str, left: float) -> None:
            if interrupted():
                raise Interrupted
            status(f"measuring {what}, {left:.0f} s left")

        try:
            measure_speed(models | {"progress": status, "probe": True}, speed, tick, quick=quick)
        except Interrupted:
            stopped = True
    if as_json:
        record = {"machine": describe(), "versions": versions(), "busy_cores": busy, "interrupted": stopped}
        click.echo(json.dumps(record | speed.as_dict(), ensure_ascii=False))
    else:
        show(speed, describe()["cpu"])
    if plot and speed.alone:
        from eft_gguf.evaluation.plots import save
        from eft_gguf.speed.plot import draw

        save(draw(speed), plot)
        note(f"written: {plot}")
    if stopped:
        note("stopped: the figures are of what was measured before")
        raise click.exceptions.Exit(130)
    note(f"measured in {time.monotonic() - started:.0f} s")


def show(speed: Speed, cpu: str) -> None:
    """Settings and tables, for 80 columns."""
    settings = ", ".join(f"{name} {value}" for name, value in speed.settings.items())
    click.echo(click.wrap_text(f"{cpu}; {settings}", 79) + "\n")
    click.echo("\n\n".join(table.text() for table in speed.tables()))
