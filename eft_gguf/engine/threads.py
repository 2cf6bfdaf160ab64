"""How many threads a decode gets, and what they do while they wait for each other."""

from __future__ import annotations

import ctypes
import math
import os
import sys
from collections.abc import Iterable
from pathlib import Path

SMALL = 50_000_000
"""Bytes of weights below which a second thread costs more in waiting than it brings."""


CPUS = Path("/sys/devices/system/cpu")
QUOTA = Path("/sys/fs/cgroup/cpu.max")


def default_threads(models: Iterable[Path]) -> int:
    """One for tiny models, else the cores that this process may run on: more threads would only wait for a core."""
    return 1 if max(path.stat().st_size for path in models) < SMALL else usable_cores()


def usable_cores() -> int:
    """Cores for this process: a processor's second thread on a core is not counted, and a container's quota is kept.

    All threads of a decode wait for the slowest at each operation, so that one thread too many costs more than one too
    few. On a Mac it is the fast cores alone that are counted.
    """
    if sys.platform == "darwin":
        return _fast_cores() or os.cpu_count() or 1
    if not hasattr(os, "sched_getaffinity"):
        return os.cpu_count() or 1
    return max(1, min(_distinct_cores(os.sched_getaffinity(0)), _quota()))


def _distinct_cores(processors: Iterable[int]) -> int:
    """How many cores these processors are; each for itself where the system does not tell which share one."""

    def siblings(processor: int) -> str:
        try:
            return (CPUS / f"cpu{processor}" / "topology" / "thread_siblings_list").read_text()
        except OSError:
            return str(processor)

    return len({siblings(processor) for processor in processors})


def _quota() -> int:
    """The cores' worth of time that a container may use, rounded down to at least one."""
    try:
        quota, period = QUOTA.read_text().split()
        return max(1, math.floor(int(quota) / int(period)))
    except (OSError, ValueError):  # none: no such file, or "max"
        return sys.maxsize


def _fast_cores() -> int:
    count, size = ctypes.c_int(), ctypes.c_size_t(4)
    arguments = ctypes.byref(count), ctypes.byref(size), None, 0
    known = ctypes.CDLL(None).sysctlbyname(b"hw.perflevel0.physicalcpu", *arguments) == 0
    return count.value if known else 0


def wait_briefly() -> None:
    """Let threads sleep soon while they wait; to be called before llama.cpp's library is loaded.

    After each operation of a decode all its threads wait for the last. GNU's OpenMP has them spin for minutes' worth
    of turns if need be: where another program holds one of the cores, a decode then takes ten times as long, or fifty.
    Whoever sets one of OpenMP's own variables decides for themselves.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "10000")
