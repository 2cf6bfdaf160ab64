"""`eft-gguf run`: one answer."""

from __future__ import annotations

import json
import math
import sys
from typing import TYPE_CHECKING, Any

import click

from eft_gguf.cli import display
from eft_gguf.cli.grouping import Command
from eft_gguf.cli.options import (
    Given,
    dial_options,
    dials_in_use,
    model_options,
    open_models,
    sampling_options,
    tell_of_toys,
)
from eft_gguf.cli.reading import read_input
from eft_gguf.cli.reply import Reply, follow, follow_several
from eft_gguf.errors import OptionError

if TYPE_CHECKING:
    from eft_gguf import EFT

SIDE_BY_SIDE = 8
"""Answers that -n makes at a time, each with room for a whole context in memory; more follow when these are done."""


@click.command(cls=Command, short_help="Print one answer.")
@click.argument("prompt", required=False)
@click.option("--raw", is_flag=True, help="Continue PROMPT as plain text, without the chat template.")
@click.option("--system", metavar="TEXT", help="A system message before PROMPT.")
@click.option("-n", type=click.IntRange(min=1), metavar="N", help="Make N answers, with seeds in a row.")
@click.option(
    "--logprobs",
    type=click.IntRange(0, 100),
    metavar="N",
    help="With --json: log-probabilities of each token and of the N likeliest.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object with the text and all figures.")
@click.option("--stats", is_flag=True, help="Print the figures to stderr also where it is no terminal.")
@dial_options
@sampling_options
@model_options
def run(
    prompt: str | None,
    raw: bool,
    system: str | None,
    n: int | None,
    logprobs: int | None,
    as_json: bool,
    stats: bool,
    dials: Given,
    sampling: Given,
    models: Given,
) -> None:
    """Print one answer to PROMPT, as it comes.

    Text on standard input follows PROMPT: echo TEXT | eft-gguf run "Summarise this". Without PROMPT, or with -, it is
    the prompt.
    """
    from eft_gguf import Blend, Sampling

    if raw and system is not None:
        raise click.UsageError("--raw and --system exclude each other: a system message needs the chat template")
    if logprobs is not None and not as_json:
        raise click.UsageError("--logprobs needs --json: an answer printed as text has no place for them")
    Blend(**dials)  # what is out of range is refused before anything is loaded
    options = Sampling(**sampling, logprobs=logprobs)
    text = whole_prompt(prompt)

    messages = [{"role": "system", "content": checked(system)}] if system else []
    messages.append({"role": "user", "content": text})
    figures = stats or sys.stderr.isatty()
    if n is not None:
        models = {**models, "sequences": min(n, SIDE_BY_SIDE, models.get("batch", n))}

    with open_models(models) as eft:
        tell_of_toys(eft, models)
        blend = eft.family.blended(dials)
        shown = [] if raw else list(eft.examples(blend))
        about = {"dials": dials_in_use(eft, blend), "examples": shown, "members": list(eft.members)}
        if n is not None:
            chunks = eft.streams(text if raw else messages, n, blend=blend, sampling=options)

            def show(number: int, answer: Reply) -> None:
                if not as_json:
                    click.echo(f"{'' if number == 0 else chr(10)}[{number + 1} of {n}, seed {answer.timings.seed}]")
                    finish(answer, written=False, figures=figures)

            replies = follow_several(chunks, n, show)
            result: dict[str, Any] = {"completions": [as_plain(eft, answer) for answer in replies], **about}
            interrupted = len(replies) < n or any(answer.finish_reason == "interrupted" for answer in replies)
        else:
            one = eft.stream(text, blend=blend, sampling=options) if raw else None
            one = one or eft.chat(messages, blend=blend, sampling=options)
            reply = follow(one, (lambda text: None) if as_json else display.write)
            result = {**as_plain(eft, reply), **about}
            interrupted = reply.finish_reason == "interrupted"
            if not as_json:
                finish(reply, written=True, figures=figures)
        if as_json:
            click.echo(json.dumps(result, ensure_ascii=False, allow_nan=False))
    if interrupted:
        raise click.exceptions.Exit(130)


def finish(reply: Reply, *, written: bool, figures: bool) -> None:
    """What stands below an answer's text, and before it the text unless it is `written`."""
    if not written:
        display.write(reply.text)
    click.echo(nl=not reply.text.endswith("\n"))
    if figures:
        display.note(display.figures(reply.timings, reply.finish_reason))
    elif reply.finish_reason == "length":
        display.note("note: cut off: --max-tokens was reached, or the context is full (--ctx)")


def as_plain(eft: EFT, reply: Reply) -> dict[str, Any]:
    """An answer as values for JSON. What a grammar had to take against all odds has the log-probability null."""

    def token(number: int, log_probability: float) -> dict[str, Any]:
        logprob = round(log_probability, 6) if math.isfinite(log_probability) else None
        return {"token": number, "text": eft.bytes_of(number).decode("utf-8", "replace"), "logprob": logprob}

    plain: dict[str, Any] = {
        "text": reply.text,
        "finish_reason": reply.finish_reason,
        "seed": reply.timings.seed,
        "timings": reply.timings.as_dict(),
    }
    if reply.alternatives:
        plain["logprobs"] = [
            {**token(chosen, found.chosen), "top": list(map(token, found.tokens, found.log_probabilities))}
            for chosen, found in zip(reply.tokens, reply.alternatives, strict=True)
        ]
    return plain


def whole_prompt(prompt: str | None) -> str:
    """PROMPT, a blank line, and what comes on standard input; either may be missing. Raises OptionError, UsageError."""
    given = read_input(asked=prompt == "-")
    if prompt in (None, "-"):
        if prompt is None and not given.strip():
            raise click.UsageError("Missing argument 'PROMPT', and standard input has no text")
        return checked(given)
    assert prompt is not None
    return checked(prompt) + (f"\n\n{checked(given)}" if given.strip() else "")


def checked(text: str) -> str:
    """An argument or input that a model can read: Python passes bytes that are no UTF-8 on as surrogates."""
    if not text.strip():
        raise OptionError("the prompt is empty", hint="give a text as PROMPT or on standard input")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise OptionError("the prompt is not UTF-8", hint="check the terminal's encoding") from None
    return text
