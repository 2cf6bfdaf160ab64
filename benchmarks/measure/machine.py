"""On what, with what, and whether undisturbed: recorded with every figure."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from eft_gguf.evaluation import machine


def describe() -> dict[str, str]:
    """Hardware, versions, command and date."""
    return {
        **machine.describe(),
        "versions": ", ".join(f"{name} {version}" for name, version in machine.versions().items()),
        "command": " ".join(["python", *sys.argv]),
        "date": time.strftime("%Y-%m-%d"),
        "other work": f"{busy_cores():.2f} cores busy before the start",
    }


def busy_cores(seconds: float = 1.0) -> float:
    """How many cores other processes keep busy just now; the load average elsewhere than on Linux."""
    if not Path("/proc/stat").exists():
        return os.getloadavg()[0]

    def read() -> tuple[int, int]:
        times = [int(field) for field in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
        return sum(times), times[3] + times[4]  # all, and idle or waiting for a disk

    total, idle = read()
    time.sleep(seconds)
    total_after, idle_after = read()
    share = 1 - (idle_after - idle) / max(1, total_after - total)
    return share * (os.cpu_count() or 1)


def warn_if_busy() -> None:
    """Say on stderr that figures will be disturbed, if so."""
    busy = busy_cores()
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
