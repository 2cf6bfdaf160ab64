"""Processes of our own beside this one: how they are called, and how their end is worded."""

from __future__ import annotations

import contextlib
import os
import signal
import sys

UNSOUND_HINT = "the file is damaged, or of a kind that this version of llama.cpp cannot run: fetch or convert it again"

# `python -m` puts the current folder first among the places that modules come from, and people start commands in
# folders that they have downloaded. `-c` puts '' there, which is the same and can be taken out before anything is
# imported; `-P`, which does it all, came with Python 3.11.
_START = (
    "import sys; sys.path[:] = [place for place in sys.path if place]; import runpy; "
    "name = sys.argv.pop(1); runpy.run_module(name, run_name='__main__', alter_sys=True)"
)


def module_command(module: str, *arguments: str) -> list[str]:
    """The command that runs a module of this package as a program. Nothing of the current folder is imported in it."""
    return [sys.executable, "-c", _START, module, *arguments]


def quiet_environment() -> dict[str, str]:
    """The environment for a process that llama.cpp may end: without the trace that it would print, for which it starts
    a debugger where it finds one."""
    return {**os.environ, "GGML_NO_BACKTRACE": "1"}


def leave_no_core() -> None:
    """Have the end of this process leave no file behind."""
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def how_it_ended(code: int) -> str:
    """The end of a process in words, by its exit code: "was ended by SIGABRT", or "ended with code 1"."""
    if code < 0:
        with contextlib.suppress(ValueError):
            return f"was ended by {signal.Signals(-code).name}"
    return f"ended with code {code}"
