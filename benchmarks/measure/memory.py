"""Peak memory of a family in use, in a fresh process, against its files + its KV cache + 200 MB."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from eft_gguf.eft import DEFAULT_CTX
from eft_gguf.models.family import Family, read_family
from eft_gguf.models.metadata import GGUFMetadata
from measure.report import Table, verdict

ALLOWANCE = 200_000_000
KV_BYTES = 2
"""Bytes of a cached number: float16."""


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
    paths = {family.base.path, family.untuned.path, *(trait.model.path for trait in family.tuned)}
    return Memory(
        files=sum(path.stat().st_size for path in paths),
        kv=kv_bytes(family),
        peak=max(stage["peak"] for stage in stages.values()),
        stages=stages,
    )


def kv_bytes(family: Family) -> int:
    """The KV caches of all members, from the models' shapes: each has a context of its own."""
    base, untuned, tuned = read_family(family)
    models = [base, untuned, *(untuned if model.kind == "adapter" else model for model in tuned.values())]
    ctx = family.ctx or min([DEFAULT_CTX, *(model.ctx_train for model in models if model.ctx_train)])
    # llama.cpp rounds a context up to a multiple of 256.
    return sum(_kv_bytes_per_token(model) for model in models) * (-(-ctx // 256) * 256)


def _kv_bytes_per_token(model: GGUFMetadata) -> int:
    def field(key: str) -> int | None:
        return model.fields.get(f"{model.architecture}.{key}")

    heads = field("attention.head_count") or 1
    width = (field("embedding_length") or 0) // heads
    keys, values = field("attention.key_length") or width, field("attention.value_length") or width
    return (field("block_count") or 0) * (field("attention.head_count_kv") or heads) * (keys + values) * KV_BYTES


def _mb(size: int) -> str:
    return f"{size / 1e6:,.0f}"
