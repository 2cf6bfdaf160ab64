"""`eft-gguf inspect`: which model decided which token."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from eft_gguf.cli.grouping import Command
from eft_gguf.cli.inspect_html import page
from eft_gguf.cli.inspect_view import show
from eft_gguf.cli.options import (
    Given,
    dial_options,
    dials_in_use,
    model_options,
    open_models,
    sampling_options,
)
from eft_gguf.cli.reading import read_input
from eft_gguf.cli.reply import follow
from eft_gguf.cli.run import checked
from eft_gguf.errors import OptionError
from eft_gguf.files import write_aside

if TYPE_CHECKING:
    from eft_gguf.inspection import Inspection


@click.command(
    cls=Command,
    sampling_defaults={"temperature": 0.0, "max_tokens": 200},
    short_help="Show which model decided which token.",
)
@click.argument("prompt")
@click.option("--raw", is_flag=True, help="Continue PROMPT as plain text, without the chat template.")
@click.option("--system", metavar="TEXT", help="A system message before PROMPT.")
@click.option("--text", metavar="TEXT", help="Inspect TEXT as the reply, instead of one that is made now.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object with every figure of every token.")
@click.option("--html", type=click.Path(dir_okay=False, path_type=Path), help="Write a page with the details.")
@dial_options
@sampling_options
@model_options
def inspect(
    prompt: str,
    raw: bool,
    system: str | None,
    text: str | None,
    as_json: bool,
    html: Path | None,
    dials: Given,
    sampling: Given,
    models: Given,
) -> None:
    """Answer PROMPT and show which model decided which token. PROMPT - reads standard input.

    Greedy unless --temperature is given, and at most 200 tokens unless --max-tokens is.
    """
    from eft_gguf import Blend, Sampling

    if raw and system is not None:
        raise click.UsageError("--raw and --system exclude each other: a system message needs the chat template")
    if text is not None and sampling:
        raise click.UsageError(f"--text and {_flag(sampling)} exclude each other: a text that is given is not sampled")
    if text is not None and not text.strip():
        raise OptionError("the reply is empty", hint="give --text a text, or leave it out")
    Blend(**dials)  # what is out of range is refused before anything is loaded
    options = Sampling(**{"temperature": 0.0, "max_tokens": 200, **sampling})
    prompt = checked(read_input(asked=True) if prompt == "-" else prompt)
    text = text and checked(text)
    messages = [{"role": "system", "content": checked(system)}] if system else []
    messages.append({"role": "user", "content": prompt})

    with open_models(models) as eft:
        blend = eft.family.blended(dials)
        reply: Any = text
        finish_reason, seed = None, None
        if reply is None:
            chunks = eft.stream(prompt, blend=blend, sampling=options) if raw else None
            answer = follow(chunks or eft.chat(messages, blend=blend, sampling=options), lambda piece: None)
            if answer.finish_reason == "interrupted":
                raise click.exceptions.Exit(130)
            reply, finish_reason, seed = answer.tokens, answer.finish_reason, answer.timings.seed

        from eft_gguf.inspection import inspect_reply

        inspection = inspect_reply(eft, prompt if raw else messages, reply, blend=blend)
        made = {"prompt": prompt, "dials": dials_in_use(eft, blend), "finish_reason": finish_reason, "seed": seed}
        report = {**made, **as_plain(inspection)}
    if html:
        write_aside(html, page(report))
    if as_json:
        click.echo(json.dumps(report, ensure_ascii=False, allow_nan=False))
    else:
        click.echo(show(inspection), nl=False)


def as_plain(inspection: Inspection) -> dict[str, Any]:
    """An inspection as values for JSON; what is infinite is null."""
    from eft_gguf.inspection import DECISIONS

    summary = inspection.summary
    return {
        "text": inspection.text,
        "decisions": DECISIONS,
        "voices": list(inspection.voices),
        "summary": {
            "tokens": summary.tokens,
            "shares": _rounded(summary.shares),
            "places": summary.places,
            "mean_total_variation": _rounded(summary.mean_total_variation),
            "mean_kl": _rounded(summary.mean_kl),
        },
        "tokens": [
            {
                "token": token.token,
                "text": token.text,
                "decided_by": token.decided_by,
                "probabilities": _rounded(token.probabilities),
                "alternatives": {
                    name: [
                        {"token": other.token, "text": other.text, "probability": round(other.probability, 6)}
                        for other in others
                    ]
                    for name, others in token.alternatives.items()
                },
                "total_variation": _rounded(token.total_variation),
                "kl": _rounded(token.kl),
            }
            for token in inspection.tokens
        ],
    }


def _rounded(figures: dict[str, float]) -> dict[str, float | None]:
    return {name: round(value, 6) if math.isfinite(value) else None for name, value in figures.items()}


def _flag(sampling: Given) -> str:
    return "--" + next(iter(sampling)).replace("_", "-")
