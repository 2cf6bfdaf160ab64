"""`eft-gguf families list`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from eft_gguf.cli.display import printable

if TYPE_CHECKING:
    from eft_gguf.models.presets import Listed

Records = list[dict[str, Any]]


@click.command("list", short_help="List all names, and what of them is on this disk.")
@click.option("--json", "as_json", is_flag=True, help="Print the list as JSON.")
def list(as_json: bool) -> None:
    """List all names, and what of them is on this disk.

    All stores are looked through: Hugging Face's cache, Ollama's, LM Studio's. A family whose file is wrong is listed
    with what is wrong.
    """
    from eft_gguf.errors import OptionError
    from eft_gguf.models.family import list_family
    from eft_gguf.models.presets import names

    records: Records = []
    for name in ["bundled", *names()]:
        try:
            records.append(record(list_family(name)))
        except OptionError as error:
            records.append({"name": name, "error": error.message, "hint": error.hint})
    if as_json:
        click.echo(json.dumps(records, ensure_ascii=False))
        return
    rows = [("name", "here", "all files", "base with tuned"), *map(_row, records)]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    for row in rows:
        line = "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[3]])
        click.echo(printable(line).rstrip())
    click.echo("\nUse one: eft-gguf chat -f NAME   details: eft-gguf families show NAME")


def record(family: Listed) -> dict[str, Any]:
    """A family, its references, and where each model is; None for those that are not on this disk."""
    found = family.found()
    return {
        "name": family.name,
        "about": family.about,
        "preset": family.is_preset,
        "file": str(family.path),
        "gigabytes": family.gigabytes,
        "members": {
            role: {"references": [*references], "path": _text(found[role])}
            for role, references in family.members.items()
        },
        "ready": all(found.values()),
        "vocabulary": family.vocabulary,
        "checked": family.checked,
    }


def _row(record: dict[str, Any]) -> tuple[str, str, str, str]:
    if "error" in record:
        return record["name"], "", "", f"wrong: {record['error']}"
    members = record["members"].values()
    here = sum(member["path"] is not None for member in members)
    about = "tiny models that ship with eft-gguf" if record["name"] == "bundled" else record["about"]
    size = f"{record['gigabytes']:g} GB" if record["gigabytes"] else ""
    return record["name"], "all" if record["ready"] else f"{here} of {len(members)}", size, about


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)
