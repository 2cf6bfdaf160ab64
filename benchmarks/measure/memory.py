"""Peak memory of a family in use, in a fresh process, against its files + its KV cache + 200 MB."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from eft_gguf.eft import context_length
from eft_gguf.models.family import Family, read_family
from eft_gguf.models.memory import needed
from measure.report import Table, verdict

ALLOWANCE = 200_000_000


@dataclass(frozen=True)
class Memory:
    """Bytes. `stages`: what was in use after each stage of a program's life, as memory_stages.py tells."""

    files: int
    kv: int
    peak: int
    stages: dict[str, dict[str, int]]

    @property
    def bound(self) -> int:
        return self.files + self.kv + ALLOWANCE

    def table(self, family: str) -> Table:
        rows = [
            ("model files", _mb(self.files)),
            ("KV caches", _mb(self.kv)),
            ("allowance", _mb(ALLOWANCE)),
            ("bound", _mb(self.bound)),
            ("**peak**", f"**{_mb(self.peak)}**"),
            ("above files and KV caches", _mb(self.peak - self.files - self.kv)),
            ("verdict", verdict(self.peak, self.bound)),
        ]
        return Table(f"Peak memory, {family}", ("", "MB (10⁶ bytes)"), rows)

    def parts(self) -> Table:
        """What the peak consists of: growth from stage to stage, model files and KV caches apart."""
        rows = []
        before = {"now": 0, "anonymous": 0, "models": 0}
        for name, stage in self.stages.items():
            kv = self.kv if name == "loading" else 0
            anonymous = stage["anonymous"] - before["anonymous"] - kv
            mapped = stage["now"] - stage["anonymous"] - stage["models"]
            mapped -= before["now"] - before["anonymous"] - before["models"]
            rows.append((name, _mb(anonymous + mapped), _mb(anonymous), _mb(mapped)))
            before = stage
        rows.append(("model files in memory (mapped)", _mb(before["models"]), "0", _mb(before["models"])))
        rows.append(("KV caches", _mb(self.kv), _mb(self.kv), "0"))
        return Table(
            "What is in memory, stage by stage",
            ("stage", "MB more", "own", "code mapped from libraries"),
            rows,
            "Loading brings llama.cpp's vocabularies; a reply its compute buffers, and LLVM to load compiled kernels.",
        )


def measure_memory(family: Family, threads: int | None) -> Memory:
    """Load the family in a fresh process, make a reply and score a text, at the default context size."""
    tuned = family.tuned[0].model
    references = [str(family.base.path), str(family.untuned.path), ("lora:" if tuned.adapter else "") + str(tuned.path)]
    script = Path(__file__).parent / "memory_stages.py"
    command = [sys.executable, str(script), str(family.path or ""), *references, str(threads or 0)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    stages: dict[str, dict[str, int]] = json.loads(done.stdout)
    base, untuned, tuned = read_family(family)
    ctx = context_length(family.ctx, (base, untuned, *tuned.values()))
    need = needed({"base": base, "untuned": untuned, **tuned}, ctx=ctx)
    peak = max(stage["peak"] for stage in stages.values())
    return Memory(files=need.files, kv=need.kv, peak=peak, stages=stages)


def _mb(size: int) -> str:
    return f"{size / 1e6:,.0f}"
