"""What fits, and what is said of what does not."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from eft_gguf import EFT, LoadError
from eft_gguf.models import fit
from eft_gguf.models.fit import Plan, free_memory, in_words
from eft_gguf.models.header import Tensor
from eft_gguf.models.metadata import GGUFMetadata, read_metadata
from tests.conftest import TinyFiles

GB = 10**9


@pytest.fixture
def large(tiny: TinyFiles) -> GGUFMetadata:
    """A model of 8 × 10⁹ weights at F16, on paper."""
    weights = {f"blk.{layer}.ffn_up.weight": Tensor(1, GB // 4, GB // 2) for layer in range(32)}
    fields = {"llama.block_count": 32, "llama.embedding_length": 4096, "llama.attention.head_count": 32}
    fields |= {"llama.attention.head_count_kv": 8, "llama.feed_forward_length": 14336}
    return replace(read_metadata(tiny.base), tensors=weights, fields=fields)


@pytest.fixture
def plan(tiny: TinyFiles, large: GGUFMetadata) -> Plan:
    small = read_metadata(tiny.untuned)
    return Plan({"base": large, "untuned": small, "tuned": small}, {"tuned": "untuned"})


def test_sums_of_a_large_model(plan: Plan) -> None:
    memory = plan.at(8192)
    assert memory.members["base"].weights == 16 * GB
    # 32 layers × 8 heads × (128 + 128) numbers × 2 bytes for each of 8,192 tokens
    assert memory.members["base"].cache == 32 * 8 * 256 * 2 * 8192
    assert memory.members["tuned"].weights == 0
    assert memory.total == sum(share.total for share in memory.members.values()) + memory.program


def test_what_fits_is_let_pass(plan: Plan) -> None:
    plan.require(8192, plan.at(8192).total)


def test_a_context_too_long(plan: Plan) -> None:
    free = plan.at(5000).total
    with pytest.raises(LoadError) as caught:
        plan.require(32768, free)
    need = in_words(plan.at(32768).total)
    assert caught.value.message == (
        f"these models need {need} of memory at a context of 32,768 tokens, and {in_words(free)} are free"
    )
    # The cache comes in steps of 256 tokens.
    assert caught.value.hint == "pass --ctx 4864; take base at Q8_0 or smaller; --force tries it all the same"


def test_weights_too_large(plan: Plan) -> None:
    assert plan.ways(1024, 7 * GB) == ["take base at Q6_K or smaller"]
    assert plan.ways(1024, GB) == ["close other programs, or take smaller models"]


def test_where_no_single_change_helps_two_are_named(plan: Plan) -> None:
    # At 32,768 tokens the cache alone takes more than is free, at F16 the weights do.
    (way,) = plan.ways(32768, 4 * GB)
    found = re.fullmatch(r"take base at (\w+) or smaller and pass --ctx (\d+)", way)
    assert found is not None and found[1] == "Q2_K" and 512 <= int(found[2]) < 32768


def test_quantizations_that_are_no_smaller_are_not_named(plan: Plan, large: GGUFMetadata) -> None:
    quantized = {name: replace(tensor, size_bytes=tensor.elements * 9 // 16) for name, tensor in large.tensors.items()}
    at_q4 = replace(plan, members={**plan.members, "base": replace(large, tensors=quantized)})
    assert at_q4.smaller_quantization(1024, 4 * GB + 800 * 10**6) == ("base", "Q3_K_M")


def test_sequences_count(plan: Plan) -> None:
    one, four = plan.at(4096), replace(plan, sequences=4).at(4096)
    assert four.kv == 4 * one.kv


def test_opening_refuses_unless_forced(tiny: TinyFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("eft_gguf.eft.free_memory", lambda: 100_000_000)
    with pytest.raises(LoadError, match="of memory at a context of 256 tokens, and 100 MB are free"):
        EFT.open(**tiny.family())
    EFT.open(**tiny.family(), force=True).close()


def test_free_memory_is_what_a_container_leaves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fit, "GROUP", tmp_path)
    everything = free_memory()
    assert everything > 10**8
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("60000000\n")
    (tmp_path / "memory.stat").write_text("anon 1\nfile 20000000\n")
    assert free_memory() > 10**8
    (tmp_path / "memory.max").write_text("100000000\n")
    assert free_memory() == 60_000_000
