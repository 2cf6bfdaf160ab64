"""`eft-gguf families fetch`."""

from __future__ import annotations

import click

from eft_gguf.cli.display import note


@click.command("fetch", short_help="Fetch what of a family is not on this disk.")
@click.argument("name", metavar="NAME|FILE.toml")
def fetch(name: str) -> None:
    """Fetch what of a family is not on this disk, into Hugging Face's cache.

    Stopped or broken off, the same command goes on from there.
    """
    from eft_gguf.errors import ModelFileError
    from eft_gguf.models.family import list_family
    from eft_gguf.models.hugging_face import SCHEME
    from eft_gguf.models.references import ADAPTER, resolve

    family = list_family(name)
    for role, path in family.found().items():
        if path is None:
            references = family.members[role]
            remote = [text for text in references if text.removeprefix(ADAPTER).startswith(SCHEME)]
            if not remote:
                raise ModelFileError(
                    f"{role} of {family.name}, {references[0]}, is not on this disk and cannot be fetched",
                    hint=f"put it there, or name another in {family.path}",
                )
            note(f"{role}: fetching {remote[0]}")
            path = resolve(remote[0]).path
        click.echo(f"{role}: {path}")
    click.echo(f"check them: eft-gguf doctor -f {name}")
