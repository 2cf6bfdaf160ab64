"""The plan against what llama.cpp reports, on every layout, and against what a process really takes."""

from __future__ import annotations

import collections
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from eft_gguf.engine import llama
from eft_gguf.models.cache import is_recurrent, kv_bytes, state_bytes
from eft_gguf.models.family import family_from_references, load_family, read_family
from eft_gguf.models.fit import Plan
from eft_gguf.models.memory import OUTPUTS, PER_CONTEXT, compute_bytes
from eft_gguf.models.metadata import read_metadata
from tests.tiny_architectures import ARCHITECTURES, write_architecture

SEQUENCES, CTX, BATCH = 2, 512, 128
MIB = 1 << 20


def reported(path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """MiB of the buffers that llama.cpp says it made: KV, RS (states), compute."""
    log: collections.deque[str] = collections.deque()
    monkeypatch.setattr(llama, "_log", log)
    model = llama.Model(path)
    context = llama.Context(model, ctx=CTX, batch=BATCH, sequences=SEQUENCES, outputs=OUTPUTS, threads=1)
    found: collections.Counter[str] = collections.Counter()
    for kind, size in re.findall(r"(KV|RS|compute) buffer size = *([\d.]+) MiB", "".join(log)):
        found[kind] += float(size)
    context.close()
    model.close()
    return found


@pytest.mark.parametrize("large", [False, True], ids=["small", "large"])
@pytest.mark.parametrize("series", ARCHITECTURES)
def test_caches_and_buffers(series: str, large: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_architecture(tmp_path / "model.gguf", series, large=large)
    model, sizes = read_metadata(path), reported(path, monkeypatch)
    hundredth = 0.0051  # llama.cpp rounds to it
    assert kv_bytes(model, CTX * SEQUENCES) / MIB == pytest.approx(sizes["KV"], abs=2 * hundredth)
    assert state_bytes(model, SEQUENCES) / MIB == pytest.approx(sizes["RS"], abs=hundredth)
    kind = ARCHITECTURES[series]
    assert is_recurrent(model) == (kind.recurrent if large or kind.small_recurrent is None else kind.small_recurrent)
    assert model.vocabulary is not None
    rows = 4 * OUTPUTS * model.vocabulary.size
    computing = compute_bytes(model, ctx=CTX * SEQUENCES, batch=BATCH, sequences=SEQUENCES) - rows - PER_CONTEXT
    # States are computed in tiny buffers: an upper bound will do there.
    assert computing / MIB >= 0.9 * sizes["compute"]
    assert computing / MIB <= sizes["compute"] + 0.5


PROGRAM = """
import json, sys
from eft_gguf import EFT, Sampling
family, base, untuned, tuned, ctx = sys.argv[1:]
named = {} if family else {"base": base, "untuned": untuned, "tuned": tuned}
with EFT.open(family or None, ctx=int(ctx), **named) as eft:
    text = "One two three four five six seven eight nine ten. " * 400
    eft.complete(text[: min(eft.ctx, 4000)], sampling=Sampling(seed=1, max_tokens=8))
    eft.score(text[: min(600, eft.ctx // 2)])
status = open("/proc/self/status").read()
print(json.dumps(int(status.split("VmHWM:")[1].split()[0]) * 1024))
"""
REAL = Path.home() / ".cache" / "eft-gguf-models"
CODER, SMOL = str(REAL / "qwen2.5-coder-{}-instruct-q4_k_m.gguf"), str(REAL / "smollm2-135m-instruct-q4_1.gguf")
ADAPTER = f"lora:{REAL / 'two-line-answers-lora-qwen2.5-coder-0.5b.gguf'}"


def planned_and_measured(spec: str, references: tuple[str, str, str], ctx: int) -> tuple[int, int]:
    family = load_family(spec) if spec else family_from_references(*references)
    base, untuned, others = read_family(family)
    plan = Plan({"base": base, "untuned": untuned, **others}, family.untuned_of)
    command = [sys.executable, "-c", PROGRAM, spec, *references, str(ctx)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=300)
    return plan.at(ctx).total, json.loads(done.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a program's peak since its start")
@pytest.mark.parametrize("ctx", [64, 256, 512])
def test_the_bundled_familys_peak(ctx: int) -> None:
    planned, measured = planned_and_measured("bundled", ("", "", ""), ctx)
    assert planned == pytest.approx(measured, rel=0.1)


@pytest.mark.real_models
@pytest.mark.parametrize("ctx", [1024, 4096, 8192])
@pytest.mark.parametrize(
    "references",
    [(CODER.format("1.5b"), CODER.format("0.5b"), ADAPTER), (SMOL, SMOL, SMOL)],
    ids=["Qwen2.5-Coder", "SmolLM2"],
)
def test_the_peak_of_real_models(references: tuple[str, str, str], ctx: int) -> None:
    planned, measured = planned_and_measured("", references, ctx)
    print(f"planned {planned / 1e6:.0f} MB, measured {measured / 1e6:.0f} MB")
    assert planned == pytest.approx(measured, rel=0.1)


@pytest.mark.real_models
def test_a_lora_adds_less_than_5_percent_to_the_small_model() -> None:
    """Peak with the adapter as tuned, less the peak with tuned = untuned: both have three caches."""
    small = CODER.format("0.5b")
    _, with_adapter = planned_and_measured("", (CODER.format("1.5b"), small, ADAPTER), 1024)
    _, without = planned_and_measured("", (CODER.format("1.5b"), small, small), 1024)
    assert with_adapter - without < 0.05 * Path(small).stat().st_size
