"""`eft-gguf run`: one answer."""

from __future__ import annotations

import json
import sys
from typing import Any

import click

from eft_gguf.cli import display
from eft_gguf.cli.options import (
    Given,
    dial_options,
    dials_in_use,
    model_options,
    open_models,
    sampling_options,
)
from eft_gguf.cli.reply import follow
from eft_gguf.errors import OptionError


@click.command(short_help="Print one answer.")
@click.argument("prompt")
@click.option("--raw", is_flag=True, help="Continue PROMPT as plain text, without the chat template.")
@click.option("--system", metavar="TEXT", help="A system message before PROMPT.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object with the text and all figures.")
@click.option("--stats", is_flag=True, help="Print the figures to stderr also where it is no terminal.")
@dial_options
@sampling_options
@model_options
def run(
    prompt: str,
    raw: bool,
    system: str | None,
    as_json: bool,
    stats: bool,
    dials: Given,
    sampling: Given,
    models: Given,
) -> None:
    """Print one answer to PROMPT, as it comes. PROMPT - reads standard input."""
    from eft_gguf import Blend, Sampling

    if raw and system is not None:
        raise click.UsageError("--raw and --system exclude each other: a system message needs the chat template")
    blend, options = Blend(**dials), Sampling(**sampling)
    prompt = read_prompt() if prompt == "-" else checked(prompt)

    with open_models(models) as eft:
        if raw:
            chunks = eft.stream(prompt, blend=blend, sampling=options)
        else:
            messages = [{"role": "system", "content": checked(system)}] if system else []
            messages.append({"role": "user", "content": prompt})
            chunks = eft.chat(messages, blend=blend, sampling=options)
        reply = follow(chunks, (lambda text: None) if as_json else display.write)
        if as_json:
            result: dict[str, Any] = {
                "text": reply.text,
                "finish_reason": reply.finish_reason,
                "dials": dials_in_use(eft, blend),
                "seed": reply.timings.seed,
                "members": list(eft.members),
                "timings": reply.timings.as_dict(),
            }
            click.echo(json.dumps(result, ensure_ascii=False))
        else:
            click.echo(nl=not reply.text.endswith("\n"))
            if stats or sys.stderr.isatty():
                display.note(display.footer(reply.timings, reply.finish_reason))
    if reply.finish_reason == "interrupted":
        raise click.exceptions.Exit(130)


def read_prompt() -> str:
    """Standard input as text, without its last newline."""
    data = sys.stdin.buffer.read()
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise OptionError(
            f"standard input is not UTF-8: byte 0x{data[error.start]:02x} at position {error.start}",
            hint="convert it first, for example: iconv -f latin1 -t utf-8 FILE | eft-gguf run -",
        ) from None
    return checked(text.removesuffix("\n"))


def checked(text: str) -> str:
    """An argument or input that a model can read: Python passes bytes that are no UTF-8 on as surrogates."""
    if not text.strip():
        raise OptionError("the prompt is empty", hint="give a text, or - to read standard input")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise OptionError("the prompt is not UTF-8", hint="check the terminal's encoding") from None
    return text
