"""A reference, as a user writes it, → the file that it means."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from eft_gguf.errors import OptionError
from eft_gguf.models.header import open_gguf

ADAPTER = "lora:"
LATER = ("hf:", "ollama:")


@dataclass(frozen=True, slots=True)
class Reference:
    """A model file, or an adapter that works on the untuned model's weights."""

    text: str  # as the user wrote it
    path: Path
    adapter: bool = False
    scale: float = 1.0  # of the adapter


def resolve(text: str | Path, *, relative_to: Path | None = None) -> Reference:
    """Find the file that a reference means: a path, or `lora:` and the path of an adapter.

    `relative_to` is the folder that relative paths start from, instead of the current one. Raises
    ModelFileError if there is no such file or it is no GGUF, OptionError for a reference of no known form.
    """
    text = str(text)
    path = locate(text, relative_to=relative_to)
    with open_gguf(path):
        return Reference(text, path, adapter=text.startswith(ADAPTER))


def locate(text: str, *, relative_to: Path | None = None) -> Path:
    """The path in a reference, whether or not a file is there."""
    name = text.removeprefix(ADAPTER)
    if not name.strip():
        raise OptionError("an empty model reference", hint=f"give the path of a .gguf file, or {ADAPTER}PATH")
    try:
        path = Path(name).expanduser()
    except RuntimeError:  # ~someone, who has no account here
        path = Path(name)
    path = (relative_to or Path()) / path
    for scheme in LATER:
        if name.startswith(scheme) and not path.exists():
            raise OptionError(
                f"{scheme} references, such as {name!r}, are not supported yet",
                hint="give the path of a .gguf file that is already on this disk",
            )
    return path
