"""A group of commands that imports only the one that is called."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

import click


class LazyCommands(click.Group):
    """Finds the command `name` as the function `name` in the module `package.name`.

    summaries: a line for each command. They stand with the group, so that --help imports no command.
    """

    def __init__(self, *arguments: Any, summaries: Mapping[str, str], package: str, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.summaries = summaries
        self.package = package

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.summaries)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.summaries:
            return None
        command: click.Command = getattr(importlib.import_module(f"{self.package}.{cmd_name}"), cmd_name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(self.summaries.items()))
