"""A LoRA as tuned is the merged model: the same distributions, on weights that are loaded once."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from gguf import GGUFReader

from eft_gguf import EFT, Blend, Sampling
from eft_gguf.models.memory import needed, weights_in_use
from eft_gguf.models.metadata import read_metadata
from tests.tiny_models import write_tiny_adapter, write_tiny_model

QUESTION = [{"role": "user", "content": "the heath, é?"}]


def merge(model: Path, adapter: Path, path: Path, scale: float) -> Path:
    """Add scale · alpha / rank · B A to each matrix that the adapter names, as merging tools do."""
    shutil.copy(model, path)
    low = {tensor.name: np.array(tensor.data) for tensor in GGUFReader(adapter).tensors}
    reader = GGUFReader(path, "r+")
    alpha = float(GGUFReader(adapter).fields["adapter.lora.alpha"].contents())
    changed = 0
    for tensor in reader.tensors:
        if f"{tensor.name}.lora_a" in low:
            a, b = low[f"{tensor.name}.lora_a"], low[f"{tensor.name}.lora_b"]
            tensor.data[:] += scale * alpha / len(a) * (b @ a)
            changed += 1
    reader.data.flush()
    assert changed == 3
    return path


@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_a_lora_gives_the_distribution_of_the_merged_model(tmp_path: Path, scale: float) -> None:
    base, untuned = (write_tiny_model(tmp_path / f"{seed}.gguf", seed=seed) for seed in (0, 1))
    adapter = write_tiny_adapter(tmp_path / "lora.gguf", seed=9)
    merged = merge(untuned, adapter, tmp_path / "merged.gguf", scale)
    found = {}
    for name, tuned in (("adapter", f"lora:{adapter}@{scale}"), ("merged", str(merged))):
        with EFT.open(base=base, untuned=untuned, tuned=tuned) as eft:
            blend = Blend(knowledge=0.8, behaviour=1.1)
            rows = [
                {role: row.copy() for role, row in logits.items()}
                for _, logits in eft.replay(QUESTION, "he the heath", blend=blend)
            ]
            reply = eft.complete(QUESTION, blend=blend, sampling=Sampling(temperature=0, max_tokens=12)).tokens
            found[name] = rows, reply
    may = np.isfinite(found["merged"][0][0]["blend"])
    for one, other in zip(found["adapter"][0], found["merged"][0], strict=True):
        for role in ("untuned", "tuned", "blend"):
            np.testing.assert_allclose(one[role][may], other[role][may], atol=2e-3)
        assert not np.allclose(one["tuned"][may], one["untuned"][may], atol=0.1)  # the adapter does something
    assert found["adapter"][1] == found["merged"][1]


def test_an_adapters_own_weights_are_all_it_adds(tmp_path: Path) -> None:
    """Beside the cache and buffers that any tuned model has."""
    untuned = read_metadata(write_tiny_model(tmp_path / "small.gguf"))
    adapter = read_metadata(write_tiny_adapter(tmp_path / "lora.gguf"))
    with_adapter = needed({"base": untuned, "untuned": untuned, "tuned": adapter}, ctx=256)
    without = needed({"base": untuned, "untuned": untuned, "tuned": untuned}, ctx=256)
    assert with_adapter.total - without.total == weights_in_use(adapter)
    assert weights_in_use(adapter) == sum(tensor.size_bytes for tensor in adapter.tensors.values())
