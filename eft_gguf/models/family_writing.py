"""Family files written from references, and checked before they are."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from eft_gguf.errors import OptionError
from eft_gguf.files import write_aside
from eft_gguf.models.compatibility import require
from eft_gguf.models.family import Trait, family_from_text, parse_tuned, read_family, table_from_text
from eft_gguf.models.findings import Finding
from eft_gguf.models.presets import listed
from eft_gguf.models.references import ADAPTER, SCHEMES, Reference


@dataclass(frozen=True, slots=True)
class TraitEntry:
    """A trait as it is to be written."""

    name: str
    model: str
    weight: float = 1.0
    untuned: str | None = None


@dataclass(frozen=True, slots=True)
class Entry:
    """A family as it is to be written: references are texts, of which no file need be here."""

    name: str
    base: str
    untuned: str
    tuned: tuple[TraitEntry, ...]
    ctx: int | None = None
    bases_template: str | None = None
    about: str = ""


def traits_of(tuned: Sequence[str], untuned_of: Sequence[str]) -> tuple[TraitEntry, ...]:
    """Traits from `[TRAIT=]REF[:WEIGHT]`, and the models that some were tuned from, as `TRAIT=REF`.

    Raises OptionError for traits without a name where there are several, and for unknown ones.
    """
    own = dict(_pair(text) for text in untuned_of)
    traits = []
    for name, reference, weight in map(parse_tuned, tuned):
        if name is None and len(tuned) > 1:
            raise OptionError(
                f"the tuned model {reference} has no trait name",
                hint=f"with several tuned models each needs one: helpful={reference}",
            )
        name = name or "tuned"
        Trait(name, Reference(reference, Path(reference)), weight)  # raises for a wrong name or weight
        traits.append(TraitEntry(name, reference, weight, own.pop(name, None)))
    if own:
        known = ", ".join(trait.name for trait in traits)
        raise OptionError(f"--untuned-of names {next(iter(own))!r}, no trait", hint=f"the traits are {known}")
    return tuple(traits)


def family_text(entry: Entry) -> str:
    """The TOML of a family. Paths are made absolute, names in stores kept."""
    lines = [f"name = {_quoted(entry.name)}"]
    if entry.about:
        lines.append(f"about = {_quoted(entry.about)}")
    lines += [f"base = {_quoted(absolute(entry.base))}", f"untuned = {_quoted(absolute(entry.untuned))}"]
    if entry.ctx is not None:
        lines.append(f"ctx = {entry.ctx}")
    if entry.bases_template is not None:
        lines.append(f"bases_template = {_quoted(entry.bases_template)}")
    for trait in entry.tuned:
        lines += ["", f"[tuned.{_quoted(trait.name)}]", f"model = {_quoted(absolute(trait.model))}"]
        lines.append(f"weight = {trait.weight!r}")
        if trait.untuned is not None:
            lines.append(f"untuned = {_quoted(absolute(trait.untuned))}")
    return "\n".join(lines) + "\n"


def check_models(text: str, path: Path) -> list[Finding]:
    """Findings about the models that a family file names, where all of them are on this disk; else none.

    Raises OptionError for a wrong file, CompatibilityError where the models may not be blended, ModelFileError.
    """
    table = table_from_text(text, path)
    if not all(listed(path.stem, table, path).found().values()):
        return []
    family = family_from_text(text, path)
    base, untuned, others = read_family(family)
    return require(base, untuned, others, family.untuned_of)


def write_family(path: Path, text: str, *, replace: bool) -> None:
    """Write a family file. Raises OptionError where there is one already."""
    if path.exists() and not replace:
        raise OptionError(f"{path} is there already", hint="pass --replace to overwrite it, or take another name")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OptionError(f"cannot make {path.parent}: {error.strerror}", hint="name another file") from None
    write_aside(path, text)


def absolute(reference: str) -> str:
    """A reference that means the same in any folder."""
    head = ADAPTER if reference.startswith(ADAPTER) else ""
    rest = reference.removeprefix(ADAPTER)
    if not rest.strip() or (rest.startswith(SCHEMES) and not Path(rest).exists()):
        return reference
    return head + str(Path(rest).expanduser().absolute())


def _pair(text: str) -> tuple[str, str]:
    name, equals, reference = text.partition("=")
    if not (name and equals and reference):
        raise OptionError(f"{text!r} is not of the form TRAIT=REF", hint="as in terse=other-small.gguf")
    return name, reference


def _quoted(text: str) -> str:
    # JSON's escapes are TOML's, but that TOML wants this one written out.
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
