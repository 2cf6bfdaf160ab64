"""Kernel times at a real vocabulary's size: NumPy, Numba, and native/eft.h as each compiler makes it.

    python benchmarks/native_kernels.py [--json | --docs]

Beside them stands the time that a plain read of the same bytes takes, which is the limit: eft.h's blend is to take 1.5
times that at most. Exit code 1 where it takes longer. Needs gcc or clang; times what it finds.
"""

from __future__ import annotations

import argparse
import ctypes
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from measure import machine, report
from measure.sampling import FACTORS, TRIPLES, TURN, model_like_rows, numpy_blend

from eft_gguf.blend import kernels

VOCABULARY = 151_936
BOUND = 1.5
KERNELS = ("read", "blend", "greedy choice", "top 40", "candidates")
NATIVE = Path(__file__).parents[1] / "native"
FLAGS = ["-std=c11", "-O3", "-march=native", "-fPIC", "-shared"]
READ = """
#include <stddef.h>
#include <stdint.h>
uint64_t read_words(const uint64_t *word, size_t n) {
    uint64_t sum = 0;
    for (size_t i = 0; i < n; i++) {
        sum += word[i];
    }
    return sum;
}
"""
Contenders = dict[tuple[str, str], Callable[[int], object]]
"""By kernel and maker: works on the triple of rows of that number."""


class Row(ctypes.Structure):
    """`eft_row` of eft.h."""

    _fields_ = (("logits", ctypes.c_void_p), ("factor", ctypes.c_double), ("role", ctypes.c_int))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=1000, help="calls to time of each kernel")
    parser.add_argument("--json", action="store_true", help="print all figures as JSON")
    parser.add_argument("--docs", action="store_true", help="write the table into docs/benchmarks.md")
    arguments = parser.parse_args()
    compilers = [name for name in ("gcc", "clang") if shutil.which(name)]
    if not compilers:
        parser.error("neither gcc nor clang is installed")
    machine.warn_if_busy()
    about = machine.describe()
    rng = np.random.default_rng(0)
    triples = [model_like_rows(rng, VOCABULARY) for _ in range(TRIPLES)]
    with tempfile.TemporaryDirectory() as folder, machine.one_core():
        times = timed({**in_python(triples), **in_c(triples, compilers, Path(folder))}, arguments.calls)
    limit = min(times["read", name].median for name in compilers)
    worst = max(times["blend", f"eft.h by {name}"].median / limit for name in compilers)
    table = report.Table(
        f"Kernels on three rows of {VOCABULARY:,} tokens, one core",
        ("kernel", "ms, median (quartiles)", "of the plain read"),
        [
            (f"{kernel}, {maker}", spread.text(4, scale=1e3), f"{spread.median / limit:.2f} ×")
            for (kernel, maker), spread in times.items()
        ],
        f"Rows of {TRIPLES} steps in turn; {arguments.calls:,} calls each, {TURN} at a turn. The read sums up the "
        f"{3 * 4 * VOCABULARY / 1e6:.2f} MB of the three rows; the faster one is the limit. The blend writes "
        f"{4 * VOCABULARY / 1e6:.2f} MB beside that, candidates {12 * VOCABULARY / 1e6:.2f} MB. "
        f"{', '.join(version(name) for name in compilers)}; {' '.join(FLAGS[:3])}. "
        f"Blend by eft.h, bound {BOUND} × the read: {report.verdict(worst, BOUND)}.",
    )
    data: dict[str, Any] = {"vocabulary": VOCABULARY, "seconds": {", ".join(key): s for key, s in times.items()}}
    report.publish("native_kernels", about, [table], data, as_json=arguments.json, docs=arguments.docs)
    return 0 if worst <= BOUND else 1


def in_python(triples: list[kernels.Rows]) -> Contenders:
    """NumPy as one would write it, and what the package uses."""
    out, candidates = np.empty(VOCABULARY, np.float32), np.zeros(VOCABULARY, kernels.CANDIDATE)
    return {
        ("blend", "NumPy"): lambda i: numpy_blend(triples[i]),
        ("blend", "Numba"): lambda i: kernels.blend_into(triples[i], FACTORS, out),
        ("greedy choice", "NumPy"): lambda i: int(numpy_blend(triples[i]).argmax()),
        ("greedy choice", "Numba"): lambda i: kernels.blend_argmax(triples[i], FACTORS, VOCABULARY),
        ("top 40", "Numba"): lambda i: kernels.blend_top(triples[i], FACTORS, 40, candidates),
        ("candidates", "Numba"): lambda i: kernels.blend_candidates(triples[i], FACTORS, candidates),
    }


def in_c(triples: list[kernels.Rows], compilers: list[str], folder: Path) -> Contenders:
    """The plain read, and eft.h's kernels by each compiler."""
    contenders: Contenders = {}
    structs = [
        (Row * 3)(*((row.ctypes.data, factor, 2) for row, factor in zip(rows, FACTORS, strict=True)))
        for rows in triples
    ]
    out, candidates = np.empty(VOCABULARY, np.float32), np.zeros(VOCABULARY, kernels.CANDIDATE)
    (folder / "read.c").write_text(READ)
    for name in compilers:
        read = compiled(name, folder / "read.c", folder).read_words
        read.argtypes, read.restype = (ctypes.c_void_p, ctypes.c_size_t), ctypes.c_uint64
        words = [[(row.ctypes.data, VOCABULARY // 2) for row in rows] for rows in triples]
        contenders["read", name] = lambda i, f=read, w=words: [f(*row) for row in w[i]]  # type: ignore[misc]
        eft = compiled(name, NATIVE / "eft.c", folder)
        size, pointer = ctypes.c_size_t, ctypes.c_void_p
        room = np.empty(24 * VOCABULARY, np.uint8)
        for kernel, function, arguments, given in (
            ("blend", eft.eft_blend, (pointer,), (out.ctypes.data,)),
            ("greedy choice", eft.eft_blend_argmax, (), ()),
            ("top 40", eft.eft_blend_top, (size, pointer, pointer), (40, room.ctypes.data, candidates.ctypes.data)),
            ("candidates", eft.eft_blend_candidates, (pointer,), (candidates.ctypes.data,)),
        ):
            function.argtypes = (pointer, size, size, *arguments)
            contenders[kernel, f"eft.h by {name}"] = lambda i, f=function, g=given, keep=(out, candidates, room): f(  # type: ignore[misc]
                structs[i], 3, VOCABULARY, *g
            )
    return contenders


def compiled(compiler: str, source: Path, folder: Path) -> ctypes.CDLL:
    path = folder / f"{source.stem}-{compiler}.so"
    subprocess.run([compiler, *FLAGS, str(source), "-lm", "-o", str(path)], check=True)
    return ctypes.CDLL(str(path))


def version(compiler: str) -> str:
    return subprocess.run([compiler, "--version"], capture_output=True, text=True).stdout.splitlines()[0]


def timed(contenders: Contenders, calls: int) -> dict[tuple[str, str], report.Spread]:
    """Seconds of each, in turns of some calls: one by one, each would find the cache full of what another left."""
    seconds: dict[tuple[str, str], list[float]] = {key: [] for key in contenders}
    for work in contenders.values():
        work(0)  # compiles, or loads what was compiled
    for _ in range(-(-calls // TURN)):
        for key, work in contenders.items():
            for call in range(TURN):
                started = time.perf_counter()
                work(call % TRIPLES)
                seconds[key].append(time.perf_counter() - started)
    return {key: report.Spread.of(seconds[key]) for key in sorted(seconds, key=lambda key: KERNELS.index(key[0]))}


if __name__ == "__main__":
    sys.exit(main())
