"""`eft-gguf families`: which families there are by name, what of them is on this disk, and how to get the rest."""

from __future__ import annotations

import click

from eft_gguf.cli.lazy import LazyCommands

SUMMARIES = {
    "list": "List all names, and what of them is on this disk.",
    "show": "Show one: its models, where they are, where they come from.",
    "fetch": "Fetch what of a family is not on this disk.",
    "add": "Name three models of your own once, for -f NAME.",
    "use": "Make one the default of all commands.",
    "rm": "Remove a family that you added.",
}


@click.group(
    cls=LazyCommands,
    summaries=SUMMARIES,
    package="eft_gguf.cli.families",
    invoke_without_command=True,
    short_help="Families by name, and what of them is on this disk.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the list as JSON.")
@click.pass_context
def families(ctx: click.Context, as_json: bool) -> None:
    """Families of models by name: presets, and those that you added. Without a command: list them.

    Any of the names stands behind -f in all other commands.
    """
    if ctx.invoked_subcommand is None:
        command = families.get_command(ctx, "list")
        assert command is not None
        ctx.invoke(command, as_json=as_json)
