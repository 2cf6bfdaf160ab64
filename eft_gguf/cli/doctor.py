"""`eft-gguf doctor`: verdicts on a family, each with the way to mend what is wrong."""

from __future__ import annotations

import json

import click

from eft_gguf.cli.display import Status, coloured, printable
from eft_gguf.cli.grouping import Command
from eft_gguf.cli.options import REFERENCES, Given, check_models, model_options
from eft_gguf.cli.reply import interruption

COLOURS = {"PASS": "green", "WARN": "yellow", "FAIL": "red", "SKIP": "bright_black"}


class Interrupted(Exception):
    """Ctrl-C came; what was found before stands."""


@click.command(cls=Command, short_help="Check a family: do the models fit together, and here?")
@click.option("--quick", is_flag=True, help="Look at the files only: load nothing, measure nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@model_options
def doctor(quick: bool, as_json: bool, models: Given) -> None:
    """Check a family: may its models be blended, will they fit, how fast will it be, is the build a good one?

    PASS, WARN or FAIL, each with what to do about it. Exit code 0 if all is well, 1 after warnings, 2 after failures.
    """
    check_models(models)
    from eft_gguf.doctor.examine import examine
    from eft_gguf.doctor.report import Check, Report, text_of
    from eft_gguf.models.family import Family, family_from_references, load_family

    named = {name: models.pop(name) for name in (*REFERENCES, "family") if name in models}

    def open_family() -> Family:
        if "base" in named:
            return family_from_references(named["base"], named["untuned"], named["tuned"])
        return load_family(named.get("family"))

    def shown(check: Check) -> str:
        # Names in a model's file may hold what steers a terminal.
        text = printable(text_of(check))
        colour = None if coloured() is False else COLOURS[check.verdict]
        return click.style(check.verdict, fg=colour) + text.removeprefix(check.verdict)

    report = Report(named.get("family") or ("from references" if named else "bundled"))
    stopped = False
    with Status() as status, interruption() as interrupted:

        def tick(what: str) -> None:
            if interrupted():
                raise Interrupted
            status(what if what.startswith(("loading", "measuring")) else f"measuring {what}")

        if not as_json:
            click.echo(printable(f"family: {report.family}\n"))
        try:
            for check in examine(open_family, models, quick=quick, tick=tick):
                report.checks.append(check)
                status.clear()
                if not as_json:
                    click.echo(shown(check))
        except Interrupted:
            stopped = True
    if as_json:
        click.echo(json.dumps(report.as_dict() | {"interrupted": stopped}, ensure_ascii=False))
    else:
        click.echo("\n" + report.summary())
    raise click.exceptions.Exit(130 if stopped else report.exit_code)
