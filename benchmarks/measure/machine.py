"""On what, with what, and whether undisturbed: recorded with every figure."""

from __future__ import annotations

import os
import shlex
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from eft_gguf.evaluation import machine


def describe() -> dict[str, str]:
    """Hardware, versions, command and date."""
    return {
        **machine.describe(),
        "versions": ", ".join(f"{name} {version}" for name, version in machine.versions().items()),
        "command": shlex.join(["python", *sys.argv]),
        "date": time.strftime("%Y-%m-%d"),
        "other work": f"{machine.busy_cores():.2f} cores busy before the start",
    }


def warn_if_busy() -> None:
    """Say on stderr that figures will be disturbed, if so."""
    busy = machine.busy_cores()
    if busy > 0.2:
        print(f"note: other work keeps {busy:.1f} cores busy; times will be too long", file=sys.stderr)


@contextmanager
def one_core() -> Iterator[None]:
    """Keep this process on a single core, where the system lets a process say so."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(allowed)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)
