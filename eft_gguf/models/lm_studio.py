"""Models that LM Studio has fetched.

Layout (https://lmstudio.ai/docs/basics/import-model): ~/.lmstudio/models/PUBLISHER/REPO/FILE.gguf; the user may have
moved the folder, which settings.json then names, and older versions kept it in ~/.cache/lm-studio.
"""

from __future__ import annotations

from pathlib import Path

from eft_gguf.errors import ModelFileError
from eft_gguf.files import read_json, read_text
from eft_gguf.models.repository import inside, parse, parts_of, quantizations

SCHEME = "lmstudio:"


def find(name: str) -> Path:
    """The file of a model, whole. Raises OptionError for a wrong name, ModelFileError if it is not there."""
    wanted = parse(name, SCHEME)
    for root in roots():
        folder = root / wanted.owner / wanted.repo
        names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.gguf"))
        chosen = wanted.choose(names, str(folder))
        if chosen is not None:
            # LM Studio's own imports may be links to anywhere; the folder itself must be one of its own.
            paths = [inside(folder, root) / part for part in parts_of(chosen)]
            missing = next((path for path in paths if not path.exists()), None)
            if missing is not None:
                what = "is a link to a file that is gone" if missing.is_symlink() else "is missing"
                raise ModelFileError(f"{missing} {what}", hint="fetch the model again in LM Studio")
            return paths[0]
        if half := sorted(folder.rglob("*.part")):
            raise ModelFileError(f"{SCHEME}{name} is half fetched: {half[0]}", hint="let LM Studio finish it")
        if names:
            there = quantizations(names)
            hint = f"there are: {', '.join(there or names)}"
            raise ModelFileError(f"{folder} has no {wanted.file or wanted.quantization}", hint=hint)
    raise ModelFileError(
        f"LM Studio has no {wanted.repository} in {' or '.join(map(str, roots()))}",
        hint="fetch it there, or give the path of a .gguf file",
    )


def roots() -> list[Path]:
    """Folders that LM Studio may keep models in."""
    homes = [Path("~/.lmstudio").expanduser(), Path("~/.cache/lm-studio").expanduser()]
    pointer = Path("~/.lmstudio-home-pointer").expanduser()
    if pointer.is_file():
        homes.insert(0, Path(read_text(pointer).strip()))
    return list(dict.fromkeys(folder for home in homes for folder in (_set(home), home / "models") if folder))


def _set(home: Path) -> Path | None:
    """The folder that the user chose."""
    try:
        folder = read_json(home / "settings.json")["downloadsFolder"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return Path(folder) if isinstance(folder, str) and folder else None
