"""Differences of models as adapters: exact at full rank, the best there is below, and what does not fit told."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from gguf import GGUFWriter

from eft_gguf import EFT, Sampling
from eft_gguf.convert.delta import extract_delta, truncated
from eft_gguf.convert.divergence import Member, kl, rows
from eft_gguf.convert.gguf_file import GGUFFile
from eft_gguf.convert.writing import planned, silent, write_gguf
from eft_gguf.errors import CompatibilityError, OptionError
from eft_gguf.models.metadata import read_metadata
from tests.conftest import TinyFiles
from tests.tiny_architectures import write_architecture

BUNDLED = Path(__file__).parents[2] / "eft_gguf" / "bundled"


def tuned_of(untuned: Path, output: Path, *, size: float = 0.1, only: str = "", rank: int = 0) -> Path:
    """A model that is `untuned` with all its weights, or those whose names hold `only`, changed at random."""
    rng = np.random.default_rng(4)
    file = GGUFFile(untuned)
    writer = GGUFWriter(None, file.architecture)
    file.copy_keys(writer, {})
    tensors = []
    for name, tensor in file.tensors.items():
        values = file.read(name)
        if only in name:
            change = rng.standard_normal(tensor.shape)
            if rank and len(tensor.shape) == 2:
                change = rng.standard_normal((tensor.shape[0], rank)) @ rng.standard_normal((rank, tensor.shape[1]))
            values = values + (size * values.std() + size * 0.1) * change.astype(np.float32)
        tensors.append(planned(name, values))
    write_gguf(output, writer, tensors)
    return output


def divergence(untuned: Path, tuned: Path, adapter: Path | None) -> float:
    """Between two models, measured by the test itself, on another text."""
    text = "Which river is the longest, and who has swum in it? " * 3
    return float(np.mean([kl(*row) for row in rows([Member(tuned), Member(untuned, adapter)], text, silent)]))


@pytest.mark.parametrize("series", ["Llama 3", "Qwen3", "Mistral"])
def test_full_rank_reproduces_the_tuned_model(series: str, tmp_path: Path) -> None:
    """Embedding, output layer and norms are changed too: they have a place, for the output layer is not the embedding.

    Of Qwen3 it is without the norms of queries and keys, which have none.
    """
    untuned = write_architecture(tmp_path / "untuned.gguf", series)
    tuned = tuned_of(untuned, tmp_path / "all.gguf")
    if series == "Qwen3":
        tuned = tuned_of(untuned, tmp_path / "some.gguf", only="ffn")
    made = extract_delta(untuned, tuned, tmp_path / "delta.gguf", rank=1000, dtype="f32")
    assert made.left_out == {}
    assert made.kl_without > 0.01
    assert made.kl <= 1e-4
    assert made.error < 1e-3
    assert divergence(untuned, tuned, None) > 0.01
    assert divergence(untuned, tuned, tmp_path / "delta.gguf") <= 1e-4


def test_half_the_bytes_hold_nearly_as_much(tmp_path: Path) -> None:
    untuned = write_architecture(tmp_path / "untuned.gguf", "Llama 3")
    tuned = tuned_of(untuned, tmp_path / "tuned.gguf")
    made = extract_delta(untuned, tuned, tmp_path / "delta.gguf", rank=1000)
    assert made.kl <= 1e-4


def test_a_change_of_low_rank_needs_no_more(tmp_path: Path, tiny: TinyFiles) -> None:
    tuned = tuned_of(tiny.untuned, tmp_path / "tuned.gguf", only="attn_v.weight", rank=3)
    made = extract_delta(tiny.untuned, tuned, tmp_path / "delta.gguf", energy=0.999999, dtype="f32")
    assert {layer.rank for layer in made.layers} == {3}
    assert {layer.name for layer in made.layers} == {"blk.0.attn_v.weight", "blk.1.attn_v.weight"}
    assert made.kl <= 1e-4
    metadata = read_metadata(tmp_path / "delta.gguf")
    assert metadata.kind == "adapter"
    assert metadata.tensors["blk.0.attn_v.weight.lora_a"].shape == (3, 32)


def test_the_cut_is_the_best_one() -> None:
    """Against NumPy's singular values."""
    rng = np.random.default_rng(0)
    for shape in ((20, 30), (30, 20)):
        difference = (rng.standard_normal(shape) * 2.0 ** -np.arange(shape[1])).astype(np.float32)
        singular = np.linalg.svd(difference.astype(np.float64), compute_uv=False)
        for rank in (1, 4, 9):
            pair, error = truncated(difference, rank, None)
            best = np.sqrt((singular[rank:] ** 2).sum() / (singular**2).sum())
            measured = np.linalg.norm(difference - pair.b @ pair.a) / np.linalg.norm(difference)
            np.testing.assert_allclose([error, measured], best, rtol=1e-3)
        for energy in (0.5, 0.9, 0.99):
            pair, error = truncated(difference, None, energy)
            assert 1 - error**2 >= energy
            assert 1 - truncated(difference, pair.rank - 1, None)[1] ** 2 < energy if pair.rank > 1 else True


def test_what_has_no_place_is_told(tmp_path: Path) -> None:
    """An embedding that is the output layer too, and norms behind a layer."""
    untuned = write_architecture(tmp_path / "untuned.gguf", "Gemma 3")
    tuned = tuned_of(untuned, tmp_path / "tuned.gguf")
    made = extract_delta(untuned, tuned, tmp_path / "delta.gguf")
    assert {"token_embd.weight", "output_norm.weight", "blk.0.post_ffw_norm.weight"} <= made.left_out.keys()
    assert "blk.0.attn_norm.weight" not in made.left_out
    assert any("no place in an adapter" in note for note in made.notes)


def test_untied_all_of_a_fine_tuning_has_a_place(tmp_path: Path) -> None:
    """The bundled pair's output layer is its embedding, which was tuned: on the plain untuned model that is lost."""
    untuned, tuned = BUNDLED / "base-s.gguf", BUNDLED / "helpful-s.gguf"
    tied = extract_delta(untuned, tuned, tmp_path / "tied.gguf", rank=64, dtype="f32")
    assert any("--untie" in note for note in tied.notes) and tied.kl > 0.1
    copy, output = tmp_path / "untied.gguf", tmp_path / "delta.gguf"
    made = extract_delta(untuned, tuned, output, rank=64, dtype="f32", untie=copy)
    assert made.left_out == {} and made.untied == str(copy) and made.kl <= 1e-4
    assert divergence(copy, untuned, None) <= 1e-6
    assert divergence(copy, tuned, output) <= 1e-4 < divergence(copy, tuned, None)
    with EFT.open(base=BUNDLED / "base-l.gguf", untuned=copy, tuned=f"lora:{output}") as eft:
        assert eft.complete("The capital of Peru is", sampling=Sampling(temperature=0, max_tokens=3)).tokens


def test_what_cannot_be_untied(tmp_path: Path) -> None:
    untuned = write_architecture(tmp_path / "untuned.gguf", "Llama 3")
    tuned = tuned_of(untuned, tmp_path / "tuned.gguf")
    with pytest.raises(OptionError, match="an output layer of its own"):
        extract_delta(untuned, tuned, tmp_path / "delta.gguf", untie=tmp_path / "untied.gguf")
    with pytest.raises(OptionError, match="name two files"):
        extract_delta(BUNDLED / "base-s.gguf", tuned, tmp_path / "a.gguf", untie=tmp_path / "a.gguf")
    assert {path.name for path in tmp_path.iterdir()} == {"untuned.gguf", "tuned.gguf"}


def test_models_that_are_no_pair(tmp_path: Path, tiny: TinyFiles) -> None:
    output = tmp_path / "delta.gguf"
    other = write_architecture(tmp_path / "other.gguf", "Qwen3")
    with pytest.raises(CompatibilityError, match="architecture"):
        extract_delta(tiny.untuned, other, output)
    with pytest.raises(OptionError, match="do not differ"):
        extract_delta(tiny.untuned, tiny.untuned, output)
    with pytest.raises(OptionError, match="energy"):
        extract_delta(tiny.untuned, tiny.tuned, output, energy=1.5)
    with pytest.raises(OptionError, match="rank"):
        extract_delta(tiny.untuned, tiny.tuned, output, rank=0)
    assert [path.name for path in tmp_path.iterdir()] == ["other.gguf"]


def test_checkpoint_folders_do_as_well(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    from eft_gguf.convert.hf import convert_checkpoint
    from tests.convert.tiny_checkpoints import write_checkpoint

    for name, seed in (("untuned", 0), ("tuned", 1)):
        write_checkpoint(tmp_path / name, "Mistral", seed=seed)
    convert_checkpoint(tmp_path / "untuned", tmp_path / "untuned.gguf")
    made = extract_delta(tmp_path / "untuned.gguf", tmp_path / "tuned", tmp_path / "delta.gguf", rank=1000, dtype="f32")
    assert made.kl <= 1e-4
    assert sorted(path.name for path in tmp_path.iterdir()) == ["delta.gguf", "tuned", "untuned", "untuned.gguf"]
