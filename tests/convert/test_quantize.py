"""llama.cpp's quantizer, alone and on a pair, whose noise is measured."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from eft_gguf.convert.divergence import Member, rows
from eft_gguf.convert.quantize import difference_noise, quantize_model, quantize_pair
from eft_gguf.engine.quantizer import RECIPES, quantize
from eft_gguf.errors import EFTError, LoadError, OptionError
from eft_gguf.models.metadata import read_metadata
from tests.tiny_architectures import write_architecture
from tests.tiny_models import write_tiny_adapter

BUNDLED = Path(__file__).parents[2] / "eft_gguf" / "bundled"
UNTUNED, TUNED = BUNDLED / "base-s.gguf", BUNDLED / "helpful-s.gguf"


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_makes_a_model_that_runs(recipe: str, tmp_path: Path) -> None:
    told: list[tuple[str, float]] = []
    made = quantize_model(
        UNTUNED, tmp_path / "small.gguf", recipe, progress=lambda what, done: told.append((what, done))
    )
    metadata = read_metadata(tmp_path / "small.gguf")
    assert sum(made.types.values()) == len(metadata.tensors)
    assert made.size_bytes == (tmp_path / "small.gguf").stat().st_size
    if recipe in ("Q8_0", "Q4_0", "Q5_1", "F16"):
        assert metadata.quantization == recipe
        assert made.notes == []
    if recipe == "Q4_K_M":  # rows of 64 hold no block of 256
        assert "no tensor could be Q4_K" in made.notes[0]
    assert len([what for what, _ in told if what.startswith("quantizing")]) == len(metadata.tensors)
    assert all(0.0 <= done <= 1.0 for _, done in told)


def test_a_pair_has_the_same_types(tmp_path: Path) -> None:
    outputs = tmp_path / "untuned.gguf", tmp_path / "tuned.gguf"
    first, second, noise = quantize_pair(UNTUNED, TUNED, outputs, "Q8_0")
    assert first.types == second.types
    kinds = [{name: tensor.kind for name, tensor in read_metadata(path).tensors.items()} for path in outputs]
    assert kinds[0] == kinds[1]
    assert 0.0 < noise.difference < noise.behaviour
    # Measured again, plainly.
    members = [Member(path) for path in (UNTUNED, TUNED, *outputs)]
    stacked = np.array(list(rows(members, "The lamp at the end", lambda *_: None)))
    stacked -= stacked.mean(axis=2, keepdims=True)
    untuned, tuned, small_untuned, small_tuned = stacked.transpose(1, 0, 2)
    lost = (small_tuned - small_untuned) - (tuned - untuned)
    again = difference_noise((members[0], members[1]), (members[2], members[3]), "The lamp at the end")
    np.testing.assert_allclose(again.difference, np.sqrt((lost**2).mean()), rtol=1e-6)
    np.testing.assert_allclose(again.behaviour, np.sqrt(((tuned - untuned) ** 2).mean()), rtol=1e-6)


def test_nothing_is_left_where_one_of_two_fails(tmp_path: Path) -> None:
    other = write_architecture(tmp_path / "other.gguf", "Qwen3")
    outputs = tmp_path / "a.gguf", tmp_path / "b.gguf"
    with pytest.raises(EFTError, match="missing"):
        quantize_pair(UNTUNED, other, outputs, "Q8_0")
    assert [path.name for path in tmp_path.iterdir()] == ["other.gguf"]
    with pytest.raises(OptionError, match="both outputs"):
        quantize_pair(UNTUNED, TUNED, (outputs[0], outputs[0]), "Q8_0")


def test_what_is_refused(tmp_path: Path) -> None:
    output = tmp_path / "small.gguf"
    with pytest.raises(OptionError, match="the recipe is"):
        quantize_model(UNTUNED, output, "Q9")
    with pytest.raises(OptionError, match="is what is read from"):
        quantize_model(write_architecture(output, "Llama 3"), output, "Q8_0", force=True)
    quantize_model(UNTUNED, output, "Q8_0", force=True)
    with pytest.raises(OptionError, match=r"quantized already \(Q8_0\)"):
        quantize_model(output, tmp_path / "again.gguf", "Q4_0")
    adapter = write_tiny_adapter(tmp_path / "adapter.gguf")
    with pytest.raises(OptionError, match="of type 'adapter'"):
        quantize_model(adapter, tmp_path / "again.gguf", "Q8_0")
    with pytest.raises(LoadError, match="failed to open GGUF file"):
        quantize(tmp_path / "nowhere.gguf", tmp_path / "again.gguf", "Q8_0", progress=lambda *_: None)
    assert not (tmp_path / "again.gguf").exists()


def test_ctrl_c_ends_the_quantizer(tmp_path: Path) -> None:
    """The process that works is ended with the one that waits, and nothing is left."""
    program = (
        "import sys, time\nfrom pathlib import Path\nfrom eft_gguf.convert.quantize import quantize_model\n"
        "def slow(what, done):\n    print(what, flush=True)\n    time.sleep(0.5)\n"
        "quantize_model(Path(sys.argv[1]), Path(sys.argv[2]), 'Q8_0', progress=slow)"
    )
    command = [sys.executable, "-c", program, str(UNTUNED), str(tmp_path / "small.gguf")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("quantizing")
        process.send_signal(signal.SIGINT)
        started = time.monotonic()
        process.communicate(timeout=60)
    assert process.returncode != 0
    assert time.monotonic() - started < 30
    assert list(tmp_path.iterdir()) == []
