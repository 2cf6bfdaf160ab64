"""`eft-gguf families show`."""

from __future__ import annotations

import json

import click

from eft_gguf.cli.display import printable


@click.command("show", short_help="Show one: its models, where they are, where they come from.")
@click.argument("name", metavar="NAME|FILE.toml")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def show(name: str, as_json: bool) -> None:
    """Show one family: its models, where on this disk each is, or else where it comes from."""
    from eft_gguf.cli.families.list import record
    from eft_gguf.models.family import list_family

    family = list_family(name)
    if as_json:
        click.echo(json.dumps(record(family), ensure_ascii=False))
        return
    _say(f"{family.name}: {family.about}" if family.about else family.name)
    for role, path in family.found().items():
        first, *others = family.members[role]
        _say(f"\n  {role}: {'not here' if path is None else path}")
        if path is None or others or str(path) != first.removeprefix("lora:"):
            _say("\n".join(f"    {reference}" for reference in (first, *others)))
    for title, text in (("Why they share a vocabulary", family.vocabulary), ("How this was checked", family.checked)):
        if text:
            _say("\n" + click.wrap_text(f"{title}: {text}", 79))
    if not all(family.found().values()):
        size = f", about {family.gigabytes:g} GB in all" if family.gigabytes else ""
        _say(f"\nFetch what is missing{size}: eft-gguf families fetch {name}")
    _say(f"\nfile: {family.path}")


def _say(text: str) -> None:
    """What a family file says must not steer the terminal."""
    click.echo(printable(text))
