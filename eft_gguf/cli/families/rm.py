"""`eft-gguf families rm`."""

from __future__ import annotations

import click


@click.command("rm", short_help="Remove a family that you added.")
@click.argument("name")
def rm(name: str) -> None:
    """Remove the file of a family that you added. Its models stay where they are."""
    from eft_gguf.cli.defaults import read_defaults, set_default_family
    from eft_gguf.cli.grouping import SECTIONS
    from eft_gguf.errors import OptionError
    from eft_gguf.models.presets import check_name, families_folder, names

    check_name(name)
    path = families_folder() / f"{name}.toml"
    if not path.is_file():
        own = ", ".join(sorted(entry.stem for entry in families_folder().glob("*.toml"))) or "none"
        what = "is a preset, which cannot be removed" if name in names() else "is no family that you added"
        raise OptionError(f"{name} {what}", hint=f"yours: {own}")
    try:
        path.unlink()
    except OSError as error:
        raise OptionError(f"cannot remove {path}: {error.strerror}", hint="remove it by hand") from None
    click.echo(f"removed: {path}")
    if read_defaults({option for section in SECTIONS.values() for option in section}).get("family") == name:
        if name in names():
            click.echo(f"the default family is the preset {name} now")
            return
        set_default_family(None)
        click.echo("it was the default family; there is none now")
