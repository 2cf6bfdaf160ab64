"""Standard input, output and error as a command line needs them, also where they are closed, full or gone."""

from __future__ import annotations

import contextlib
import io
import os
import sys


def open_streams() -> bool:
    """Make all three usable. False where standard output is closed, so that nothing could be said there.

    The descriptors are taken as well: a model file that got number 2 would be written to by llama.cpp.
    """
    closed = sys.stdout is None
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the least number that is free, which is this one
    if sys.stdin is None:
        sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115  # for the whole process
    if sys.stdout is None:
        sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    if sys.stderr is None:
        sys.stderr = open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        # What a model says must not end in an error because the terminal cannot show it.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    return not closed


def output_error() -> OSError | None:
    """What is wrong with standard output: it is full, or its reader has left. None where it takes what is written."""
    try:
        sys.stdout.flush()
    except OSError as error:
        return error
    return None


def drop_output() -> None:
    """Let nothing more be said on standard output, not even what is still held back when Python shuts down."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
