"""On what and with what: recorded with every figure that is measured."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version
from pathlib import Path

from eft_gguf.engine.threads import usable_cores

PACKAGES = ("eft-gguf", "llama-cpp-python", "numba", "numpy")


def describe() -> dict[str, str]:
    """The hardware and the system, as lines for a reader."""
    return {
        "cpu": f"{_cpu()}, {usable_cores()} cores",
        "memory": f"{_memory_gigabytes():.0f} GB",
        "system": f"{platform.system()} {platform.release()}, Python {platform.python_version()}",
        "instructions": _instructions(),
    }


def versions() -> dict[str, str]:
    """The version of each package that has part in a reply."""
    return {name: version(name) for name in PACKAGES}


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _memory_gigabytes() -> float:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    except (ValueError, OSError):
        return 0.0


def _instructions() -> str:
    """What llama.cpp was compiled for, by its own account."""
    import llama_cpp

    text: str = llama_cpp.llama_print_system_info().decode()
    flags = [part.split("=")[0].split(":")[-1].strip() for part in text.split("|") if part.strip().endswith("= 1")]
    return " ".join(flags)
