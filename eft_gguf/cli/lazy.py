"""A group of commands that imports only the one that is called."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Mapping
from typing import Any

import click


class LazyCommands(click.Group):
    """Finds the command `name` as the function `name` in the module `package.name`.

    summaries: a line for each command. They stand with the group, so that --help imports no command. Without a command
    the group prints its help, unless it does something of its own then.
    """

    def __init__(self, *arguments: Any, summaries: Mapping[str, str], package: str, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.summaries = summaries
        self.package = package

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not args and self.no_args_is_help and not ctx.resilient_parsing:
            click.echo(ctx.get_help())
            ctx.exit()
        return super().parse_args(ctx, args)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.summaries)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.summaries:
            return None
        command: click.Command = getattr(importlib.import_module(f"{self.package}.{cmd_name}"), cmd_name)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if name not in self.summaries and not name.startswith("-") and not ctx.resilient_parsing:
            meant = meaning(name, self.summaries)
            ctx.fail(f"No such command {name!r}.{meant}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(self.summaries.items()))


def meaning(text: str, known: Any) -> str:
    """ " Did you mean …?" with what is known and near to a text, those that begin with it first; else nothing."""
    names = list(known)
    near = [name for name in names if len(text.strip("-/")) > 1 and name.startswith(text)]
    near = near or difflib.get_close_matches(text, names, 2)
    return f" Did you mean {' or '.join(near[:3])}?" if near else ""
