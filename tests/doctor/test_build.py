"""What is said of llama.cpp's build, on machines that this is not."""

from __future__ import annotations

import pytest

from eft_gguf.doctor.build import build_check
from eft_gguf.engine.devices import CPU, GPU, Device

HERE = Device("CPU", "CPU", "a processor", CPU, 0, 0)
METAL = Device("MTL0", "MTL", "Apple M9", GPU, 16 * 10**9, 1)
PLAIN = "CPU : SSE3 = 1 | AVX = 0 | OPENMP = 1 | "
FAST = "CPU : SSE3 = 1 | AVX = 1 | AVX2 = 1 | OPENMP = 1 | "


@pytest.mark.parametrize(
    ("known", "info", "system", "machine", "verdict", "words"),
    [
        ([HERE], FAST, "linux", "x86_64", "PASS", "on the CPU"),
        ([HERE, METAL], "MTL : EMBED_LIBRARY = 1 | CPU : NEON = 1 | ", "darwin", "arm64", "PASS", "on MTL0"),
        ([HERE], "CPU : NEON = 1 | ", "darwin", "arm64", "WARN", "without Metal"),
        ([HERE], PLAIN, "linux", "x86_64", "WARN", "without AVX2"),
        ([HERE], "CPU : NEON = 1 | ", "linux", "aarch64", "PASS", "on the CPU"),
    ],
)
def test_verdicts(known: list[Device], info: str, system: str, machine: str, verdict: str, words: str) -> None:
    check = build_check(known, info, system, machine)
    assert check.verdict == verdict and words in check.message
    assert ("pip install --force-reinstall" in check.remedy) is (verdict == "WARN")
    assert set(check.figures) == {"llama-cpp-python", "gpus", "instructions", "mmap", "rpc"}
    assert "RPC is" in check.evidence[2]


def test_this_machine() -> None:
    check = build_check()
    assert check.figures["mmap"] is True and check.figures["instructions"]
