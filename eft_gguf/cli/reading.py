"""Text that the user hands in: files, and standard input."""

from __future__ import annotations

import os
import select
import stat
import sys
from pathlib import Path

from eft_gguf.cli.display import note
from eft_gguf.errors import OptionError
from eft_gguf.files import home_expanded
from eft_gguf.files import read_text as read_whole

PATIENCE = 2.0
"""Seconds of silence on standard input after which the user is told what is waited for."""


def plain(text: str) -> str:
    """Text without the byte order mark and the line ends of Windows."""
    return text.removeprefix("\N{ZERO WIDTH NO-BREAK SPACE}").replace("\r\n", "\n")


def read_text(path: Path) -> str:
    """A file of the user's, as `plain` text; a pipe for as long as it is written to. Raises OptionError."""
    path = home_expanded(path)
    try:
        return plain(read_whole(path))
    except OSError as error:
        raise OptionError(f"cannot read {path}: {error.strerror}", hint="name a file that can be read") from None
    except UnicodeDecodeError:
        raise OptionError(f"{path} is not UTF-8 text", hint="convert it first, for example with iconv") from None
    except ValueError as error:  # a NUL in the name
        raise OptionError(f"cannot read {str(path)!r}: {error}", hint="name a file that can be read") from None


def read_input(*, asked: bool) -> str:
    """Standard input as `plain` text without its last newline.

    Unless it is asked for, empty in a terminal, and where there is none. Raises OptionError.
    """
    if not asked and not _is_handed_in():
        return ""
    data = sys.stdin.buffer.read()
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise OptionError(
            f"standard input is not UTF-8: byte 0x{data[error.start]:02x} at position {error.start}",
            hint="convert it first, for example: iconv -f latin1 -t utf-8 FILE | eft-gguf run -",
        ) from None
    return plain(text).removesuffix("\n")


def _is_handed_in() -> bool:
    """Whether standard input is a pipe, a socket or a file. A device, such as /dev/null or a terminal, is not read."""
    try:
        descriptor = sys.stdin.fileno()
    except (OSError, ValueError):
        return True
    if stat.S_ISCHR(os.fstat(descriptor).st_mode):
        return False
    if os.name != "nt" and not select.select([descriptor], [], [], PATIENCE)[0]:
        note("waiting for standard input to end; if there is none to come, add: < /dev/null")
    return True
