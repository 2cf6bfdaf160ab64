"""Models that Ollama has pulled.

Layout: manifests/HOST/NAMESPACE/MODEL/TAG is JSON that lists layers; the layer of a model's or an adapter's media type
is the GGUF file blobs/sha256-DIGEST.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from eft_gguf.errors import ModelFileError, OptionError
from eft_gguf.files import read_json
from eft_gguf.models.repository import inside

SCHEME = "ollama:"
HOST, NAMESPACE, TAG = "registry.ollama.ai", "library", "latest"
SERVICE = (Path("/usr/share/ollama/.ollama/models"), Path("/var/lib/ollama/.ollama/models"))
"""Where the models are if Ollama runs as a service of a Linux system."""
KIND = "application/vnd.ollama.image."
"""What the media types of layers begin with."""
WORD = re.compile(r"[A-Za-z0-9_][\w.-]*")
DIGEST = re.compile(r"sha256[:-]([0-9a-f]{64})")


def find(name: str, *, adapter: bool = False) -> Path:
    """The file of a model, or of its adapter. Raises OptionError for a wrong name, ModelFileError."""
    manifest = _manifest(name)
    kind = KIND + ("adapter" if adapter else "model")
    try:
        layers = read_json(manifest)["layers"]
        layer: dict[str, Any] = next((layer for layer in layers if layer["mediaType"] == kind), {})
        adapted = any(layer["mediaType"] == KIND + "adapter" for layer in layers)
    except (OSError, ValueError, KeyError, TypeError):
        raise ModelFileError(f"the manifest {manifest} cannot be read", hint=_pull(name)) from None
    if adapted and not adapter:
        raise ModelFileError(
            f"{SCHEME}{name} is a model with an adapter on it, which would be left out",
            hint=f"give the model that it was made FROM as untuned, and as tuned its adapter: lora:{SCHEME}{name}",
        )
    if not layer:
        raise ModelFileError(
            f"{SCHEME}{name} holds no {'adapter' if adapter else 'model'} in one GGUF file",
            hint="see what it is: ollama show " + name,
        )
    digest = DIGEST.fullmatch(str(layer.get("digest")))
    if digest is None:
        raise ModelFileError(f"the manifest {manifest} names {layer.get('digest')!r}, no digest", hint=_pull(name))
    root = manifest.parents[4]
    blob = root / "blobs" / f"sha256-{digest[1]}"
    size = layer.get("size")
    if not blob.exists():
        half = list((root / "blobs").glob(f"{blob.name}-partial*"))
        state = "is half fetched" if half else "is not there"
        raise ModelFileError(f"the file of {SCHEME}{name}, {blob}, {state}", hint=_pull(name))
    if isinstance(size, int) and blob.stat().st_size != size:
        raise ModelFileError(
            f"{blob} has {blob.stat().st_size:,} bytes, {SCHEME}{name} should have {size:,}",
            hint=f"ollama rm {name} && {_pull(name)}",
        )
    return inside(blob, root)


def roots() -> list[Path]:
    """Folders that Ollama may keep models in."""
    if folder := os.environ.get("OLLAMA_MODELS"):
        return [Path(folder).expanduser()]
    return [Path("~/.ollama/models").expanduser(), *SERVICE]


def _manifest(name: str) -> Path:
    path, _, tag = name.partition(":")
    words = path.split("/")
    if not 1 <= len(words) <= 3 or not all(WORD.fullmatch(word) and ".." not in word for word in [*words, tag or TAG]):
        raise OptionError(
            f"{SCHEME}{name} is no name of Ollama's", hint=f"write {SCHEME}MODEL:TAG, as `ollama list` shows it"
        )
    whole = [HOST, NAMESPACE][: 3 - len(words)] + words
    # Ollama takes names in any case, and keeps them as they were first written.
    for root, found in [(root, found) for found in (_exactly, _in_any_case) for root in roots()]:
        manifest = root / "manifests"
        try:
            there = found(manifest, [*whole, tag or TAG])
            if there is not None:
                return inside(there, root)
        except PermissionError:
            raise ModelFileError(
                f"no permission to read {manifest}", hint="add yourself to the group ollama, or set OLLAMA_MODELS"
            ) from None
    raise ModelFileError(f"Ollama has no {name} in {' or '.join(map(str, roots()))}", hint=_pull(name))


def _exactly(folder: Path, words: list[str]) -> Path | None:
    path = folder.joinpath(*words)
    return path if path.is_file() else None


def _in_any_case(folder: Path, words: list[str]) -> Path | None:
    paths = [folder]
    for word in words:
        inside_them = [path for folder in paths if folder.is_dir() for path in sorted(folder.iterdir())]
        paths = [path for path in inside_them if path.name.casefold() == word.casefold()]
    return next((path for path in paths if path.is_file()), None)


def _pull(name: str) -> str:
    return f"ollama pull {name}"
