"""The user's own files: where they are kept, and how they are written so that nobody finds half a one."""

from __future__ import annotations

import os
from pathlib import Path

from eft_gguf.errors import OptionError


def cache_folder() -> Path:
    """Where is kept what can be made again: EFT_GGUF_CACHE, `cache` in EFT_GGUF_HOME, or the platform's usual place."""
    if cache := os.environ.get("EFT_GGUF_CACHE"):
        return Path(cache).expanduser()
    if home := os.environ.get("EFT_GGUF_HOME"):
        return Path(home).expanduser() / "cache"
    import platformdirs

    return platformdirs.user_cache_path("eft-gguf", appauthor=False)


def write_aside(path: Path, content: str | bytes) -> None:
    """Write a file completely or not at all: under another name first, then renamed. Raises OptionError."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        aside.write_bytes(content.encode() if isinstance(content, str) else content)
        aside.replace(path)
    except OSError as error:
        aside.unlink(missing_ok=True)
        raise OptionError(f"cannot write {path}: {error.strerror}", hint="name another file") from None


def state_folder() -> Path:
    """Where chats, the input history and the user's families are kept: EFT_GGUF_HOME, or the platform's usual place."""
    if home := os.environ.get("EFT_GGUF_HOME"):
        return Path(home).expanduser()
    import platformdirs

    return platformdirs.user_state_path("eft-gguf", appauthor=False)
