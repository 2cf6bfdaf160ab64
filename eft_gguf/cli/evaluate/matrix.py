"""`eft-gguf evaluate matrix`: pre-training scale × fine-tuning scale."""

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
    require_leave,
    run_option,
    stopped,
)
from eft_gguf.cli.grouping import Command
from eft_gguf.cli.options import Given, machine_options
from eft_gguf.errors import OptionError


@click.command(cls=Command, short_help="Pre-training scale × fine-tuning scale: what does each bring?")
@click.option(
    "--size",
    "sizes",
    multiple=True,
    metavar="NAME=UNTUNED[,TUNED]",
    help="A size, smallest first; a base only where no tuned model is named.  [default: the bundled S, M and L]",
)
@click.option(
    "--prompts",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Ask your own prompts, as `evaluate gate` takes them.",
)
@click.option("--regex", metavar="PATTERN", help="The form of each reply whose line of --prompts names none.")
@click.option("--run-judges", is_flag=True, help="Run the commands that the file of prompts names as judges.")
@click.option("--max-tokens", type=int, default=80, metavar="N", help="The longest reply.  [default: 80]")
@questions_option
@run_option
@output_options
@machine_options
def matrix(
    sizes: tuple[str, ...],
    prompts: Path | None,
    regex: str | None,
    run_judges: bool,
    max_tokens: int,
    questions: str | None,
    seed: int,
    run: Path | None,
    as_json: bool,
    plot: Path | None,
    page: Path | None,
    machine: Given,
) -> None:
    """Blend every base with the fine-tuning of every size, and test what scaling each of the two brings.

    Facts and helpfulness of every cell with 95 % intervals, paired tests between neighbours, a verdict on the paper's
    two claims, and how much of the way from the small to the large tuned model blending recovers.
    """
    from eft_gguf import EFT
    from eft_gguf.evaluation import matrix as matrices
    from eft_gguf.evaluation import matrix_plot
    from eft_gguf.evaluation.cases import read_cases
    from eft_gguf.evaluation.matrix_tables import figures, tables, verdicts
    from eft_gguf.evaluation.record import about_record, file_record
    from eft_gguf.evaluation.run_file import Run

    if max_tokens < 1:
        raise OptionError(f"max_tokens must be 1 or more, not {max_tokens}", hint="leave it out for 80")
    if prompts and questions:
        raise click.UsageError("--prompts and --questions exclude each other")
    if (regex or run_judges) and not prompts:
        raise click.UsageError("--regex and --run-judges go with --prompts")
    check_outputs("matrix", plot, page)
    named = matrices.read_sizes(sizes or matrices.BUNDLED_SIZES)
    if prompts:
        cases = read_cases(prompts, regex=regex)
        require_leave(prompts, cases, run_judges)
        asked, source = matrices.own_questions(cases), {**file_record(prompts), "chosen": len(cases)}
    else:
        items, source = chosen_questions(questions, seed)
        asked = matrices.bundled_questions(items)
        if sizes:
            note("note: the scorers know the bundled family's manners only; for other models give --prompts")
    started = time.time()
    inputs = {
        "sizes": matrices.sizes_record(named),
        "questions": source,
        "regex": regex,
        "sampling": {"temperature": 0, "max_tokens": max_tokens},
        "models": machine,
    }
    record = Run(run, "matrix", inputs, about_record(started))
    before = len(record.done)
    try:
        with Countdown("replies to questions") as countdown:
            outcome = matrices.ask(
                named,
                asked,
                record,
                open_family=lambda family: EFT.open(family, probe=True, **machine),
                max_tokens=max_tokens,
                progress=countdown.progress,
            )
    except KeyboardInterrupt:
        record.took(started, before)
        stopped(run)
    seconds = record.took(started, before)
    found, said, plain = tables(outcome), verdicts(outcome), figures(outcome)
    record.finish({"verdict": said, "tables": [table.as_dict() for table in found], "figures": plain})
    whole = {**record.head, **record.head["about"], "questions": {**source, "asked": len(asked)}, "seconds": seconds}
    draw = functools.partial(matrix_plot.draw, plain)
    publish({**whole, "verdict": said, "figures": plain}, found, said, as_json=as_json, page=page, plot=plot, draw=draw)
    note(f"{len(asked):,} questions in {duration(seconds)}")
