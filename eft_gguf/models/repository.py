"""Files of repositories, as Hugging Face has them and LM Studio keeps them: OWNER/REPO/FILE or OWNER/REPO:QUANT."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from eft_gguf.errors import ModelFileError, OptionError
from eft_gguf.models.metadata import PART

PLAIN = re.compile(r"[\w.+-]+")
QUANTIZATION = re.compile(
    r"(?<![A-Za-z0-9])((?:I?Q|TQ)\d(?:_[A-Z0-9]+)*|BF16|F16|F32|MXFP4(?:_MOE)?)(?![A-Za-z0-9_])", re.I
)


@dataclass(frozen=True, slots=True)
class Wanted:
    """A file of a repository, by its path there or by its quantization; by neither, the only one there is."""

    owner: str
    repo: str
    file: str | None = None
    quantization: str | None = None

    @property
    def repository(self) -> str:
        return f"{self.owner}/{self.repo}"

    def choose(self, names: Iterable[str], where: str) -> str | None:
        """Which of the names in a repository is wanted, the first part of a split model; None if there is none.

        Raises OptionError where several fit.
        """
        if self.file is not None:
            return self.file if self.file in names else None
        models = [name for name in names if name.endswith(".gguf") and "mmproj" not in name.lower()]
        models = [name for name in models if (part := PART.fullmatch(name)) is None or int(part["number"]) == 1]
        fitting = models
        if self.quantization is not None:
            asked = re.compile(rf"(?<![A-Za-z0-9]){re.escape(self.quantization)}(?![A-Za-z0-9_])", re.IGNORECASE)
            fitting = [name for name in models if asked.search(Path(name).name)]
        if len(fitting) > 1:
            raise OptionError(
                f"{where} has {len(fitting)} files that fit: {', '.join(sorted(fitting)[:4])}",
                hint="name one: OWNER/REPO/FILE.gguf",
            )
        return fitting[0] if fitting else None


def parse(name: str, scheme: str) -> Wanted:
    """What stands after `hf:` or `lmstudio:`. Raises OptionError for other forms and for names that leave a folder."""
    path, _, quantization = name.partition(":")
    parts = path.split("/")
    wrong = len(parts) < 2 or (len(parts) > 2 and (bool(quantization) or not path.endswith(".gguf")))
    if wrong or not all(PLAIN.fullmatch(part) and part.strip(".") for part in [*parts, quantization or "x"]):
        raise OptionError(
            f"{scheme}{name} names no file of a repository",
            hint=f"write {scheme}OWNER/REPO/FILE.gguf, or {scheme}OWNER/REPO:QUANT as in {scheme}OWNER/REPO:Q4_K_M",
        )
    return Wanted(parts[0], parts[1], "/".join(parts[2:]) or None, quantization or None)


def quantizations(names: Iterable[str]) -> list[str]:
    """The quantizations that the files' names speak of, each once."""
    found = [match[1].upper() for name in names if (match := QUANTIZATION.search(Path(name).name))]
    return sorted(dict.fromkeys(found))


def parts_of(name: str) -> list[str]:
    """All files of a model, by the name of its first."""
    part = PART.fullmatch(name)
    if part is None:
        return [name]
    return [f"{part['name']}-{number:05}-of-{part['count']}.gguf" for number in range(1, int(part["count"]) + 1)]


def inside(path: Path, folder: Path) -> Path:
    """The path, if links in it do not lead out of the folder. Raises ModelFileError."""
    if not path.resolve().is_relative_to(folder.resolve()):
        raise ModelFileError(
            f"{path} is a link that leads out of {folder}",
            hint="remove it and fetch the model again, or give the path of the file itself",
        )
    return path
