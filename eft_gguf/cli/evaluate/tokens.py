"""`eft-gguf evaluate tokens`: how far tuned side and blend are apart, token by token."""

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
    duration,
    output_options,
    publish,
    questions_option,
    run_option,
    stopped,
)
from eft_gguf.cli.grouping import Command
from eft_gguf.cli.options import NAMING, Given, dial_options, model_options, open_models
from eft_gguf.errors import OptionError


@click.command(cls=Command, short_help="Token by token: where do tuned model and blend part?")
@click.option(
    "--prompts",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Your own prompts, as `evaluate gate` takes them; what they accept as an answer does not matter here.",
)
@click.option("--temperature", type=float, default=0.0, metavar="X", help="Of the replies that are read.  [default: 0]")
@click.option("--max-tokens", type=int, default=80, metavar="N", help="The longest reply.  [default: 80]")
@questions_option
@run_option
@output_options
@dial_options
@model_options
def tokens(
    prompts: Path | None,
    temperature: float,
    max_tokens: int,
    questions: str | None,
    seed: int,
    run: Path | None,
    as_json: bool,
    plot: Path | None,
    page: Path | None,
    dials: Given,
    models: Given,
) -> None:
    """Read the blend's replies token by token, and measure where the tuned side parts from the blend.

    The distribution of total variation, the share of tokens whose likeliest changes, where in a reply these are, and
    what drafts by the tuned model would come to.
    """
    from eft_gguf import Blend, Sampling
    from eft_gguf.evaluation import tokens as reading
    from eft_gguf.evaluation import tokens_plot
    from eft_gguf.evaluation.cases import read_cases
    from eft_gguf.evaluation.record import about_record, dials_record, family_record, file_record
    from eft_gguf.evaluation.run_file import Run
    from eft_gguf.evaluation.tokens_tables import tables

    if prompts and questions:
        raise click.UsageError("--prompts and --questions exclude each other")
    if max_tokens < 1:
        raise OptionError(f"max_tokens must be 1 or more, not {max_tokens}", hint="leave it out for 80")
    check_outputs("tokens", plot, page)
    Blend(**dials)  # what is out of range is refused before anything is loaded
    sampling = Sampling(temperature=temperature, max_tokens=max_tokens, seed=seed % 2**32)
    if prompts:
        cases = read_cases(prompts)
        asked = {f"line {case.line}": case.messages for case in cases}
        source = {**file_record(prompts), "chosen": len(cases)}
    else:
        items, source = chosen_questions(questions, seed)
        asked = {item["id"]: item["messages"] for item in items}
    started = time.time()
    with open_models(models) as eft:
        blend = eft.family.blended(dials)
        inputs = {
            "family": family_record(eft.family),
            "dials": dials_record(blend, eft.family),
            "questions": source,
            "sampling": {"temperature": temperature, "max_tokens": max_tokens, "seed": seed},
            "models": {name: value for name, value in models.items() if name not in NAMING},
        }
        record = Run(run, "tokens", inputs, about_record(started))
        before = len(record.done)
        try:
            with Countdown("replies") as countdown:
                read = reading.read(eft, asked, record, blend=blend, sampling=sampling, progress=countdown.progress)
        except KeyboardInterrupt:
            record.took(started, before)
            stopped(run)
    seconds = record.took(started, before)
    found = reading.summarise(read)
    drawn, plain = tables(found), found.as_dict()
    record.finish({"tables": [table.as_dict() for table in drawn], "figures": plain})
    whole = {**record.head, **record.head["about"], "questions": {**source, "asked": len(asked)}, "seconds": seconds}
    draw = functools.partial(tokens_plot.draw, plain)
    publish({**whole, "figures": plain}, drawn, as_json=as_json, page=page, plot=plot, draw=draw)
    note(f"{len(asked):,} replies in {duration(seconds)}")
