"""What llama.cpp was built for here, and what that leaves unused."""

from __future__ import annotations

import platform
import sys
from collections.abc import Sequence
from importlib.metadata import version

import llama_cpp

from eft_gguf.doctor.report import Check
from eft_gguf.engine.devices import CPU, Device, devices

VECTORS = ("AVX512", "AVX2", "AVX", "NEON", "SVE")
"""Instructions that decide how fast the CPU is, the best of each processor family first."""
AGAIN = "pip install --force-reinstall --no-cache-dir llama-cpp-python=={version}"


def build_check(
    known: Sequence[Device] | None = None,
    info: str | None = None,
    system: str | None = None,
    machine: str | None = None,
) -> Check:
    """Metal, AVX, mapped files, RPC. The arguments stand for this machine's own, in tests."""
    known = devices() if known is None else known
    info = llama_cpp.llama_print_system_info().decode() if info is None else info
    system, machine = system or sys.platform, machine or platform.machine()
    flags = [part.split("=")[0].split(":")[-1].strip() for part in info.split("|") if part.strip().endswith("= 1")]
    gpus = [device for device in known if device.kind != CPU]
    vectors = [name for name in VECTORS if name in flags]
    release = version("llama-cpp-python")
    facts = {
        "llama-cpp-python": release,
        "gpus": [str(device) for device in gpus],
        "instructions": flags,
        "mmap": bool(llama_cpp.llama_supports_mmap()),
        "rpc": bool(llama_cpp.llama_supports_rpc()),
    }
    mapped = "mapped" if facts["mmap"] else "read, not mapped"
    evidence = (
        f"GPU: {', '.join(map(str, gpus)) or 'none that llama.cpp was built for'}",
        f"processor: {' '.join(vectors) or 'no vector instructions'}",
        f"files are {mapped}; RPC {'is' if facts['rpc'] else 'is not'} built in",
    )
    again = AGAIN.format(version=release)
    if system == "darwin" and machine == "arm64" and not gpus:
        remedy = f'CMAKE_ARGS="-DGGML_METAL=on" {again}'
        return Check(
            "build", "WARN", "llama.cpp was built without Metal: this Mac's GPU is unused", evidence, remedy, facts
        )
    if machine.lower() in ("x86_64", "amd64") and "AVX2" not in vectors:
        remedy = f'CMAKE_ARGS="-DGGML_NATIVE=on" {again}'
        message = "llama.cpp was built without AVX2: on most processors that makes it several times slower"
        return Check("build", "WARN", message, evidence, remedy, facts)
    where = f"on {gpus[0].name}" if gpus else "on the CPU"
    return Check("build", "PASS", f"llama-cpp-python {release}, models are computed {where}", evidence, figures=facts)
