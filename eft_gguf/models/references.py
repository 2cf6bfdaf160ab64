"""A reference, as a user writes it, → the file that it means."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from eft_gguf.errors import EFTError, ModelFileError, OptionError
from eft_gguf.models import hugging_face, lm_studio, ollama
from eft_gguf.models.header import open_gguf
from eft_gguf.models.repository import parse, quantizations

ADAPTER = "lora:"
FORMS = "a path, hf:OWNER/REPO/FILE.gguf, hf:OWNER/REPO:QUANT, ollama:NAME:TAG or lmstudio:PUBLISHER/REPO/FILE.gguf"
SCHEMES = (hugging_face.SCHEME, ollama.SCHEME, lm_studio.SCHEME)


@dataclass(frozen=True, slots=True)
class Reference:
    """A model file, or an adapter that works on the untuned model's weights."""

    text: str  # as the user wrote it
    path: Path
    adapter: bool = False
    scale: float = 1.0  # of the adapter


def identity(reference: Reference) -> list[object]:
    """What tells the file of a reference, as it is now, from every other: to keep what was made with it.

    Raises OSError where it is gone.
    """
    about = reference.path.stat()
    return [str(reference.path.resolve()), about.st_size, about.st_mtime_ns, reference.adapter, reference.scale]


def resolve(text: str | Path, *, relative_to: Path | None = None) -> Reference:
    """Find the file that a reference means, and fetch it if it is at Hugging Face and not on this disk.

    A reference is a path, or a name after `hf:`, `ollama:` or `lmstudio:`; with `lora:` before it an adapter, and then
    with `@0.5` behind it one of that scale. `relative_to` is the folder that relative paths start from, instead of the
    current one.

    Raises ModelFileError if there is no such file or it is no GGUF, OptionError for a reference of no known form.
    """
    text = str(text)
    name, scale = _scaled(text, relative_to)
    path = locate(name, relative_to=relative_to)
    if path is None:
        path = hugging_face.fetch(name.removeprefix(ADAPTER).removeprefix(hugging_face.SCHEME))
    with open_gguf(path):
        return Reference(text, path, adapter=text.startswith(ADAPTER), scale=scale)


def locate(text: str, *, relative_to: Path | None = None) -> Path | None:
    """Where on this disk a reference leads to; a path as it is written, whether or not a file is there.

    None for a file of Hugging Face's that is still to be fetched. Raises as `resolve` does.
    """
    name = text.removeprefix(ADAPTER)
    if not name.strip():
        raise OptionError("an empty model reference", hint=f"give {FORMS}")
    try:
        path = Path(name).expanduser()
    except RuntimeError:  # ~someone, who has no account here
        path = Path(name)
    path = (relative_to or Path()) / path
    scheme = next((scheme for scheme in SCHEMES if name.startswith(scheme)), None)
    if scheme is None or path.exists():
        return path
    name = name.removeprefix(scheme)
    if scheme == hugging_face.SCHEME:
        return hugging_face.find(name) or _fetched_by_others(name)
    if scheme == ollama.SCHEME:
        return ollama.find(name, adapter=text.startswith(ADAPTER))
    return lm_studio.find(name)


def located(text: str, *, relative_to: Path | None = None) -> Path | None:
    """The file that a reference leads to, if it is here already; None for others and for wrong references."""
    name, _ = _scaled(text, relative_to) if "@" in text else (text, 1.0)
    try:
        path = locate(name, relative_to=relative_to)
        return path if path is not None and path.exists() else None
    except (EFTError, OSError, ValueError):
        return None


def on_disk(text: str, *, relative_to: Path | None = None) -> bool:
    """Whether a reference as it stands, without a scale behind it, leads to a file that is here already."""
    try:
        path = locate(text, relative_to=relative_to)
        return path is not None and path.exists()
    except (EFTError, OSError, ValueError):
        return False


def require_files(references: Sequence[str]) -> None:
    """Raise ModelFileError with all paths that lead nowhere, where it is more than one: `resolve` tells of one."""
    plain = [text for text in dict.fromkeys(references) if not text.removeprefix(ADAPTER).startswith(SCHEMES)]
    missing = [text for text in plain if located(text) is None]
    if len(missing) > 1:
        raise ModelFileError(
            f"there are no files {', '.join(missing[:-1])} and {missing[-1]}",
            hint="check the paths, or fetch the models first",
        )


def first_on_disk(texts: Sequence[str], *, relative_to: Path | None = None) -> str:
    """Of several references to the same model, the first that leads to a file here; the first of all if none does."""
    return next((text for text in texts if located(text, relative_to=relative_to)), texts[0])


def _fetched_by_others(name: str) -> Path | None:
    """A file of Hugging Face's that LM Studio or Ollama has: both keep the names it has there."""
    wanted = parse(name, hugging_face.SCHEME)
    quantization = wanted.quantization or next(iter(quantizations([wanted.file or ""])), None)
    ways: list[Callable[[], Path]] = [lambda: lm_studio.find(name)]
    if quantization is not None:
        ways.append(lambda: ollama.find(f"hf.co/{wanted.repository}:{quantization}"))
    for way in ways:
        try:
            return way()
        except (ModelFileError, OptionError):  # not there, or not in one piece
            continue
    return None


def _scaled(text: str, relative_to: Path | None) -> tuple[str, float]:
    """Cut the scale off an adapter's reference, unless a file has such a name."""
    head, at, tail = text.rpartition("@")
    if not at or not text.startswith(ADAPTER) or on_disk(text, relative_to=relative_to):
        return text, 1.0
    try:
        scale = float(tail)
    except ValueError:
        return text, 1.0
    if not math.isfinite(scale):
        raise OptionError(f"the scale of {text} is {scale}", hint="give a finite number, as in lora:adapter.gguf@0.5")
    return head, scale


def split_weight(text: str) -> tuple[str, float]:
    """Cut `:WEIGHT` off, if what follows the last colon is a number."""
    head, _, tail = text.rpartition(":")
    try:
        return (head, float(tail)) if head and head + ":" != ADAPTER else (text, 1.0)
    except ValueError:
        return text, 1.0
