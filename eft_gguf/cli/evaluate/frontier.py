"""`eft-gguf evaluate frontier`: the trade-off between two traits, and the dial behaviour, measured."""

from __future__ import annotations

import functools
import time
from pathlib import Path

import click

from eft_gguf.cli.display import note
from eft_gguf.cli.evaluate.common import (
    Countdown,
    check_outputs,
    chosen_questions,
    finish,
    output_options,
    publish,
    questions_option,
)
from eft_gguf.cli.grouping import Command
from eft_gguf.cli.options import Given, knowledge_options, model_options, open_models


def _numbers(ctx: click.Context, param: click.Parameter, value: str | None) -> list[float] | None:
    if value is None:
        return None
    try:
        return [] if value == "none" else [float(part) for part in value.split(",")]
    except ValueError:
        raise click.BadParameter(f"{value!r} is not a list of numbers, as in 0,0.5,1") from None


@click.command(cls=Command, short_help="Sweep two traits against each other, and behaviour from 0 to 2.")
@click.option("--from", "start", metavar="TRAIT", help="The trait at λ = 0.  [default: the family's first]")
@click.option("--to", "end", metavar="TRAIT", help="The trait at λ = 1.  [default: its second]")
@click.option("--steps", type=int, default=11, metavar="N", help="Points from one to the other.  [default: 11]")
@click.option(
    "--behaviour",
    metavar="X,X,…",
    callback=_numbers,
    help="Values of the dial to try, or none.  [default: 0 to 2 by quarters]",
)
@click.option("--max-tokens", type=int, default=80, metavar="N", help="The longest reply.  [default: 80]")
@questions_option
@output_options
@knowledge_options
@model_options
def frontier(
    start: str | None,
    end: str | None,
    steps: int,
    behaviour: list[float] | None,
    max_tokens: int,
    questions: str | None,
    seed: int,
    as_json: bool,
    plot: Path | None,
    page: Path | None,
    dials: Given,
    models: Given,
) -> None:
    """Sweep λ from one trait alone to another alone, and the dial behaviour, and measure facts and manners.

    Greedy replies to held-out questions, with counts and 95 % intervals. Ctrl-C ends it with what is done so far.
    """
    from eft_gguf import Blend
    from eft_gguf.evaluation import frontier as sweeps
    from eft_gguf.evaluation import frontier_plot
    from eft_gguf.evaluation.asking import ask
    from eft_gguf.evaluation.record import run_record

    check_outputs("frontier", plot, page)
    Blend(**dials)  # what is out of range is refused before anything is loaded
    items, source = chosen_questions(questions, seed)
    with open_models(models) as eft:
        blend = eft.family.blended(dials)
        start, end = sweeps.ends(eft.family, start, end)
        values = sweeps.BEHAVIOURS if behaviour is None else behaviour
        points = sweeps.trait_sweep(eft.family, start, end, steps, blend) + sweeps.behaviour_sweep(values, blend)
        caveat = sweeps.caveat(eft.family)
        if caveat:
            note(f"note: {caveat}")
        started = time.time()
        with Countdown("questions") as countdown:
            blends = [point.blend for point in points]
            scored = ask(eft, items, blends, max_tokens=max_tokens, progress=countdown.progress)
        family = eft.family
    if not scored.items:
        raise click.exceptions.Exit(130)
    record = run_record("frontier", family, source, len(scored.items), started=started, max_tokens=max_tokens)
    tables = sweeps.tables(points, scored, start, end)
    weights = {trait.name: trait.weight for trait in family.tuned}
    record |= {"notes": [caveat] if caveat else [], "from": start, "to": end}
    record |= {"points": sweeps.points_record(points, scored, weights)}
    draw = functools.partial(frontier_plot.draw, record)
    publish(record, tables, as_json=as_json, page=page, plot=plot, draw=draw)
    finish(scored, record)
