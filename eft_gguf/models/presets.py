"""Families by name: presets that ship with the package, and those that the user added.

Both are family files. A preset tells besides what it is, how much there is to fetch, why its models share a
vocabulary, and how its references were checked.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eft_gguf.errors import ModelFileError, OptionError
from eft_gguf.files import state_folder
from eft_gguf.models.references import first_on_disk, located

PRESETS = Path(__file__).parent.parent / "presets"
NAME = re.compile(r"[^\W_][\w.-]*")


@dataclass(frozen=True, slots=True)
class Listed:
    """A family by name, as its file describes it; none of its models need be here.

    members: references by role, in the order they are tried; traits by their names.  gigabytes: of all files, about,
    None where the file does not say.
    """

    name: str
    path: Path
    members: dict[str, tuple[str, ...]]
    about: str = ""
    gigabytes: float | None = None
    vocabulary: str = ""
    checked: str = ""

    @property
    def is_preset(self) -> bool:
        return self.path.parent == PRESETS

    def found(self) -> dict[str, Path | None]:
        """Where on this disk each model is; None for those that are not."""
        return {role: self._place(references) for role, references in self.members.items()}

    def require(self) -> None:
        """Raise ModelFileError where a model is not on this disk, with the way to fetch it."""
        missing = [role for role, path in self.found().items() if path is None]
        if missing:
            size = f" (all files: about {self.gigabytes:g} GB)" if self.gigabytes else ""
            listed = "; ".join(f"{role} is {self.members[role][0]}" for role in missing)
            raise ModelFileError(
                f"{len(missing)} of the {len(self.members)} models of {self.name} are not on this disk: {listed}",
                hint=f"fetch them{size}: eft-gguf families fetch {self.name}",
            )

    def _place(self, references: Sequence[str]) -> Path | None:
        return located(first_on_disk(references, relative_to=self.path.parent), relative_to=self.path.parent)


def families_folder() -> Path:
    """Where `eft-gguf families add` keeps family files."""
    return state_folder() / "families"


def names() -> list[str]:
    """All names, the user's own first; theirs count where both have one."""
    own = sorted(path.stem for path in families_folder().glob("*.toml"))
    return [*own, *sorted(path.stem for path in PRESETS.glob("*.toml") if path.stem not in own)]


def file_of(name: str) -> Path | None:
    """The file of a family by name; None for what is no name of one."""
    if not NAME.fullmatch(name):
        return None
    paths = (folder / f"{name}.toml" for folder in (families_folder(), PRESETS))
    return next((path for path in paths if path.is_file()), None)


def listed(name: str, table: dict[str, Any], path: Path) -> Listed:
    """A family by what its file holds, checked before by `family.read_table`."""
    members = {"base": _alternatives(table["base"]), "untuned": _alternatives(table["untuned"])}
    for trait, entry in table["tuned"].items():
        members[trait] = _alternatives(entry["model"] if isinstance(entry, dict) else entry)
        if isinstance(entry, dict) and "untuned" in entry:
            members[f"untuned.{trait}"] = _alternatives(entry["untuned"])
    texts = {key: " ".join(str(table.get(key, "")).split()) for key in ("about", "vocabulary", "checked")}
    return Listed(name, path, members, gigabytes=table.get("gigabytes"), **texts)


def check_name(name: str) -> None:
    """Raise OptionError for what cannot name a family."""
    if name == "bundled" or not NAME.fullmatch(name):
        raise OptionError(
            f"{name!r} cannot name a family",
            hint="use letters, digits, '.', '-', '_', with a letter or digit first; not bundled",
        )


def _alternatives(entry: Any) -> tuple[str, ...]:
    return tuple(entry) if isinstance(entry, list) else (str(entry),)
