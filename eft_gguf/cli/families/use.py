"""`eft-gguf families use`."""

from __future__ import annotations

import click


@click.command("use", short_help="Make one the default of all commands.")
@click.argument("name", metavar="NAME|FILE.toml|none")
def use(name: str) -> None:
    """Make a family the default of all commands, or none: the bundled toy models are it again."""
    from pathlib import Path

    from eft_gguf.cli.defaults import set_default_family
    from eft_gguf.models.family import list_family

    if name == "none":
        path = set_default_family(None)
        click.echo(f"no default family any more: {path}")
        return
    family = list_family(name)
    named = str(Path(name).expanduser().resolve()) if Path(name).expanduser().is_file() else name
    path = set_default_family(named)
    click.echo(f"default family: {named}, in {path}")
    if not all(family.found().values()):
        click.echo(f"fetch what of it is not here: eft-gguf families fetch {name}")
