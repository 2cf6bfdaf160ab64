"""What commands show in a terminal besides the text itself: a status line, and the figures of a reply."""

from __future__ import annotations

import os
import shutil
import sys
from types import TracebackType
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from eft_gguf.engine.sequence import Timings

_CONTROL = dict.fromkeys({*range(32), *range(127, 160)} - {ord("\n"), ord("\t")}, "\N{REPLACEMENT CHARACTER}")


LONGEST = 4000
"""Characters of a message: one that quotes a damaged file may hold megabytes."""


def coloured() -> bool | None:
    """Whether messages may have colours (https://no-color.org); None leaves it to whether there is a terminal."""
    return False if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb" else None


def columns() -> int:
    """The terminal's width, between bounds: some programs set COLUMNS to what no table can be drawn at."""
    return min(max(shutil.get_terminal_size().columns, 20), 400)


def _bounded(text: str) -> str:
    return printable(text if len(text) <= LONGEST else text[:LONGEST] + " …")


def printable(text: str) -> str:
    """The text without control characters: a model must not be able to steer the user's terminal."""
    return text.translate(_CONTROL)


class Status:
    """One line on stderr that says what is going on, gone afterwards; silent where stderr is no terminal."""

    def __init__(self) -> None:
        self._shown = False

    def __call__(self, text: str) -> None:
        if sys.stderr.isatty():
            columns = os.get_terminal_size(sys.stderr.fileno()).columns or 80
            sys.stderr.write(f"\r\x1b[K{text[: columns - 1]}")
            sys.stderr.flush()
            self._shown = True

    def clear(self) -> None:
        if self._shown:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
            self._shown = False

    def __enter__(self) -> Status:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.clear()


def write(text: str) -> None:
    """Send a piece of a reply to stdout at once; exactly as it is, unless stdout is a terminal."""
    sys.stdout.write(printable(text) if sys.stdout.isatty() else text)
    sys.stdout.flush()


def note(text: str) -> None:
    """A remark that is no part of any reply: to stderr, dim."""
    click.secho(_bounded(text), dim=True, err=True, color=coloured())


def complain(message: str, hint: str = "") -> None:
    """An error, as all commands word it. What it quotes may come from a file, so control characters are taken out."""
    click.secho(f"error: {_bounded(message)}", fg="red", err=True, color=coloured())
    if hint:
        click.echo(_bounded(hint), err=True)


def footer(timings: Timings, finish_reason: str) -> str:
    """The figures of one reply in one line of at most 80 columns; `figures` has all of them."""
    ended = {"stop": "", "length": ", cut off", "interrupted": ", stopped"}[finish_reason]
    drafts = f" · drafts {timings.acceptance:.0%} taken" if timings.drafted and timings.acceptance is not None else ""
    return (
        f"  {timings.generated_tokens} tokens, {timings.tokens_per_second:.1f}/s{ended}"
        f" · prompt {timings.prompt_tokens}, {timings.cached_tokens} cached{drafts} · seed {timings.seed}"
    )


def figures(timings: Timings, finish_reason: str) -> str:
    """All figures of one reply, in lines that fit 80 columns."""
    ended = {"stop": "", "length": ", cut off", "interrupted": ", stopped"}[finish_reason]
    per_model = ", ".join(f"{name} {ms:.1f}" for name, ms in timings.model_milliseconds.items())
    drafts = ""
    if timings.drafted and timings.acceptance is not None:
        gain = "" if timings.gain is None else f", about {timings.gain:.2f} times as fast as without"
        drafts = f"\n  drafts: {timings.mean_length:.1f} a round, {timings.acceptance:.0%} taken{gain}"
    elif timings.not_drafted:
        drafts = f"\n  no drafts: {timings.not_drafted}"
    return (
        f"  {timings.generated_tokens} tokens at {timings.tokens_per_second:.1f}/s{ended}"
        f" · prompt {timings.prompt_tokens}, {timings.cached_tokens} cached,"
        f" rest at {timings.prefill_tokens_per_second:.1f}/s\n"
        f"  ms per token: {per_model or 'none'} · seed {timings.seed}{drafts}"
    )
