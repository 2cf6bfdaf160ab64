"""How many threads a decode gets, and what they do while they wait for each other."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

SMALL = 50_000_000
"""Bytes of weights below which a second thread costs more in waiting than it brings."""


def default_threads(models: Iterable[Path]) -> int:
    """One for tiny models, else the cores that this process may run on: more threads would only wait for a core."""
    if max(path.stat().st_size for path in models) < SMALL:
        return 1
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def wait_briefly() -> None:
    """Let threads sleep soon while they wait; to be called before llama.cpp's library is loaded.

    After each operation of a decode all its threads wait for the last. GNU's OpenMP has them spin for minutes' worth
    of turns if need be: where another program holds one of the cores, a decode then takes ten times as long, or fifty.
    Whoever sets one of OpenMP's own variables decides for themselves.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "10000")
