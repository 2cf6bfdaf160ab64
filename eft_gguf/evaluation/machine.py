"""On what and with what: recorded with every figure that is measured."""

from __future__ import annotations

import os
import platform
import time
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
