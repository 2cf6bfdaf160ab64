"""The user's own files: where they are kept, and how they are read and written so that nobody finds half a one."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import secrets
import select
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from eft_gguf.errors import OptionError

LARGEST = 1 << 26
"""Bytes of a text that is read whole. Families, grammars and sessions are far smaller."""
PATIENCE = 5.0
"""Seconds that a pipe may let us wait for what is written to it."""
OWN = 0o600
"""The mode of what people said: nobody else reads it."""


def cache_folder() -> Path:
    """Where is kept what can be made again: EFT_GGUF_CACHE, `cache` in EFT_GGUF_HOME, or the platform's usual place."""
    if cache := os.environ.get("EFT_GGUF_CACHE"):
        return home_expanded(cache)
    if home := os.environ.get("EFT_GGUF_HOME"):
        return home_expanded(home) / "cache"
    import platformdirs

    return platformdirs.user_cache_path("eft-gguf", appauthor=False)


def state_folder() -> Path:
    """Where chats, the input history and the user's families are kept: EFT_GGUF_HOME, or the platform's usual place."""
    if home := os.environ.get("EFT_GGUF_HOME"):
        return home_expanded(home)
    import platformdirs

    return platformdirs.user_state_path("eft-gguf", appauthor=False)


def home_expanded(path: str | Path) -> Path:
    """A path with `~` read as the home of a user; as it stands where there is no such user."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def read_file(path: Path) -> bytes:
    """A whole file. Raises OSError, of a pipe that nobody writes to too, and for more than LARGEST bytes."""
    # A pipe that nobody has opened for writing would be waited for; and one may be written to slowly.
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0))
    with open(descriptor, "rb", buffering=0) as file:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        pieces, size, until = [], 0, time.monotonic() + PATIENCE
        while piece := _next_piece(file.fileno(), until):
            pieces.append(piece)
            size += len(piece)
            if size > LARGEST:
                raise OSError(errno.EFBIG, f"it holds more than {LARGEST:,} bytes", str(path))
    return b"".join(pieces)


def _next_piece(descriptor: int, until: float) -> bytes:
    while True:
        try:
            return os.read(descriptor, 1 << 16)
        except BlockingIOError:
            if not select.select([descriptor], [], [], max(0.0, until - time.monotonic()))[0]:
                raise OSError(errno.ETIMEDOUT, f"nothing was written to the pipe for {PATIENCE:g} s") from None


def read_text(path: Path) -> str:
    """A whole file of UTF-8. Raises OSError as `read_file` does, UnicodeDecodeError."""
    try:
        plain = stat.S_ISREG(path.stat().st_mode) and path.stat().st_size <= LARGEST
    except (OSError, ValueError):
        plain = True  # what is wrong with it, reading tells
    return path.read_text(encoding="utf-8") if plain else read_file(path).decode("utf-8")


def read_json(path: Path) -> Any:
    """What a file of JSON holds. Raises OSError as `read_file` does, ValueError for all that is no JSON."""
    return parsed(read_text(path))


def parsed(text: str | bytes) -> Any:
    """What JSON says. Raises ValueError, of what nests too deeply and of numbers of thousands of digits too."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it nests too deeply") from None


def write_aside(path: Path, content: str | bytes, *, private: bool = False) -> None:
    """Write a file completely or not at all: under another name first, then renamed. Raises OptionError.

    private: for the user alone, as what people said is. See `aside` for what a link or a device is.
    """
    try:
        with aside(path, private=private) as beside:
            beside.write_bytes(content.encode("utf-8", "surrogatepass") if isinstance(content, str) else content)
    except OSError as error:
        raise OptionError(f"cannot write {path}: {error.strerror}", hint="name another file") from None
    except ValueError as error:  # a NUL in the name
        raise OptionError(f"cannot write {str(path)!r}: {error}", hint="name another file") from None


@contextlib.contextmanager
def aside(path: Path, *, private: bool = False) -> Iterator[Path]:
    """A new, empty file to write to, which takes the place of `path` after the block, and goes where the block raises.

    A link is followed: what it leads to is replaced, and the link stays. A device or a pipe is written to and never
    replaced. The name cannot be guessed, and no file or link that has it is opened. A file keeps its mode; `private`
    makes one that its owner alone may read. Raises OSError, ValueError.
    """
    special = _is_special(path)
    target = path if special else Path(os.path.realpath(path))
    folder = Path(tempfile.gettempdir()) if special else target.parent
    beside = folder / f".{secrets.token_hex(12)}.part"
    descriptor = os.open(
        beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0), OWN if private else 0o666
    )
    try:
        with contextlib.suppress(OSError):  # there is none before
            if not private and not special:
                os.fchmod(descriptor, stat.S_IMODE(target.stat().st_mode))
        os.close(descriptor)
        yield beside
        if special:
            with beside.open("rb") as made, open(_opened(path), "wb") as out:
                shutil.copyfileobj(made, out)
        else:
            beside.replace(target)
    finally:
        beside.unlink(missing_ok=True)


def _is_special(path: Path) -> bool:
    """Whether it is there, and neither a file nor a folder."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return False
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    return not stat.S_ISREG(mode)


def _opened(path: Path) -> int:
    """A device or a pipe, to be written to. One that nobody reads is not waited for."""
    descriptor = os.open(path, os.O_WRONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0))
    os.set_blocking(descriptor, True)
    return descriptor
