"""Dials, filter and examples written into a family file, whose defaults they then are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import tomlkit

from eft_gguf.blend.equation import Blend
from eft_gguf.errors import OptionError
from eft_gguf.files import write_aside
from eft_gguf.models.family import BUNDLED, Family
from eft_gguf.models.family_writing import Entry, TraitEntry, family_text, write_family
from eft_gguf.models.presets import PRESETS, check_name, families_folder
from eft_gguf.models.references import ADAPTER, SCHEMES, Reference

FIRST = "kept by eft-gguf evaluate gate --save"


def require_own_file(family: Family) -> Path:
    """The file of a family that is the user's to change. Raises OptionError where there is none."""
    path = family.path
    if path is None or path == BUNDLED or path.parent == PRESETS:
        what = (
            "models named one by one have" if path is None else f"the family {family.name} is the package's own, with"
        )
        raise OptionError(f"{what} no file to save dials in", hint="give it a name: --save-as NAME")
    return path


def save_dials(path: Path, blend: Blend, examples: int | Path) -> None:
    """Write them into a family file; all else in it stays, comments too. Raises OptionError."""
    try:
        document = tomlkit.parse(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise OptionError(f"cannot read the family file {path}: {error}") from None
    for key in dials_table(blend, examples):
        document.pop(key, None)
    for name, weight in blend.traits.items():
        entry = document["tuned"][name]
        document["tuned"][name] = {**(entry if isinstance(entry, Mapping) else {"model": entry}), "weight": weight}
    rest = tomlkit.dumps(document).removeprefix(f"# {FIRST}\n")
    write_aside(path, _dials_text(blend, examples) + rest)


def save_as(name: str, family: Family, blend: Blend, examples: int | Path) -> Path:
    """Write a family of the user's with these models and dials; returns its file. Raises OptionError."""
    check_name(name)
    traits = tuple(
        TraitEntry(
            trait.name,
            _text(trait.model),
            blend.traits.get(trait.name, trait.weight),
            _text(trait.untuned) if trait.untuned else None,
        )
        for trait in family.tuned
    )
    entry = Entry(name, _text(family.base), _text(family.untuned), traits, family.ctx, family.bases_template)
    path = families_folder() / f"{name}.toml"
    write_family(path, _dials_text(blend, examples) + family_text(entry), replace=False)
    return path


def dials_table(blend: Blend, examples: int | Path) -> dict[str, Any]:
    """The keys of a family file. A filter is written also where it is off: it is then the family's."""
    filter = {name: value for name, value in asdict(blend.filter).items() if value is not None}
    shown = examples if isinstance(examples, int) else str(examples)
    return {"knowledge": blend.knowledge, "behaviour": blend.behaviour, "filter": filter, "examples": shown}


def _dials_text(blend: Blend, examples: int | Path) -> str:
    """The lines that stand first in the file: TOML wants keys of the whole before its tables."""
    lines = tomlkit.document()
    lines.add(tomlkit.comment(FIRST))
    for key, value in dials_table(blend, examples).items():
        lines.add(key, tomlkit.inline_table() if isinstance(value, dict) else value)
        if isinstance(value, dict):
            lines[key].update(value)
    return tomlkit.dumps(lines)


def _text(reference: Reference) -> str:
    """A reference that means the same in any folder."""
    name = reference.text.removeprefix(ADAPTER)
    if name.startswith(SCHEMES) and not Path(name).exists():
        return reference.text
    scale = f"@{reference.scale!r}" if reference.scale != 1 else ""
    return (ADAPTER if reference.adapter else "") + str(reference.path.absolute()) + scale
