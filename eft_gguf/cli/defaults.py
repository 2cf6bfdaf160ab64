"""The user's own defaults: `defaults.toml` in the folder that chats are kept in.

Its keys are options of the command line without their dashes: `family = "mine"`, `temperature = 0.3`, `ctx = 8192`,
`stop = ["END"]`, `trait = { cautious = 0.5 }`. An option that is given comes before them.
"""

from __future__ import annotations

import difflib
import sys
from collections.abc import Collection
from pathlib import Path
from typing import Any

from eft_gguf.errors import OptionError
from eft_gguf.files import state_folder, write_aside

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def defaults_file() -> Path:
    """Where they are kept."""
    return state_folder() / "defaults.toml"


def read_defaults(known: Collection[str]) -> dict[str, Any]:
    """What the file holds, by the names of options with underscores. Raises OptionError."""
    path = defaults_file()
    try:
        table = tomllib.loads(path.read_bytes().decode("utf-8-sig")) if path.is_file() else {}
    except OSError as error:
        raise OptionError(f"cannot read {path}: {error.strerror}", hint="mend or remove that file") from None
    except ValueError as error:
        raise OptionError(f"{path} is no TOML file: {error}", hint="mend or remove that file") from None
    values: dict[str, Any] = {}
    for key, value in table.items():
        name = {"trait": "traits"}.get(key, key.replace("-", "_"))
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            meant = f"did you mean {near[0]}? " if near else ""
            raise OptionError(f"{path}: there is no option {key!r}", hint=f"{meant}eft-gguf run --help lists options")
        values[name] = [f"{k}={v}" for k, v in value.items()] if isinstance(value, dict) else value
    return values


def set_default_family(name: str | None) -> Path:
    """Write the default family into the file, or take it out, and leave the rest as it is. Raises OptionError."""
    import tomlkit

    path = defaults_file()
    try:
        document = tomlkit.parse(path.read_text(encoding="utf-8-sig")) if path.is_file() else tomlkit.document()
    except (OSError, ValueError) as error:
        raise OptionError(f"cannot read {path}: {error}", hint="mend or remove that file") from None
    document.pop("family", None)
    if name is not None:
        document["family"] = name
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise OptionError(
            f"cannot make {path.parent}: {error.strerror}", hint="name another folder: EFT_GGUF_HOME"
        ) from None
    write_aside(path, tomlkit.dumps(document))
    return path
