"""`eft-gguf convert`: what it prints, as text and as JSON, and what it says of a user's mistakes."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import TinyFiles

BUNDLED = Path(__file__).parents[2] / "eft_gguf" / "bundled"


def test_delta(command: Callable, tiny: TinyFiles, tmp_path: Path) -> None:
    output = str(tmp_path / "delta.gguf")
    arguments = ["convert", "delta", str(tiny.untuned), str(tiny.tuned), output, "--rank", "4"]
    made = command(*arguments)
    assert made.code == 0
    assert "layers, ranks 4 to 4" in made.out
    assert "nats a token" in made.out
    again = command(*arguments)
    assert again.code == 2
    assert "exists already" in again.err and "--force" in again.err
    (tmp_path / "text.txt").write_text("Who is it?")
    forced = json.loads(command(*arguments, "--force", "--json", "--text", str(tmp_path / "text.txt")).out)
    assert forced["kl"] < forced["kl_without"]
    assert {layer["rank"] for layer in forced["layers"]} == {4}
    assert command(*arguments, "--force", "--text", str(tmp_path / "none.txt")).code == 2
    said = command(
        "run", "he", "--base", str(tiny.base), "--untuned", str(tiny.untuned), "--tuned", f"lora:{output}",
        "--max-tokens", "4",
    )  # fmt: skip
    assert said.code == 0


def test_quantize_and_pair(command: Callable, tmp_path: Path) -> None:
    untuned, tuned = (str(BUNDLED / f"{name}.gguf") for name in ("base-s", "helpful-s"))
    made = command("convert", "quantize", untuned, str(tmp_path / "q8.gguf"), "q8_0")
    assert made.code == 0 and "Q8_0" in made.out
    told = command(
        "convert", "pair", untuned, tuned, str(tmp_path / "u.gguf"), str(tmp_path / "t.gguf"), "Q8_0", "--json"
    )
    noise = json.loads(told.out)["noise"]
    assert 0 < noise["relative"] < 1
    wrong = command("convert", "quantize", untuned, str(tmp_path / "x.gguf"), "Q99")
    assert wrong.code == 2 and "must be one of" in wrong.err
    missing = command("convert", "quantize", str(tmp_path / "no.gguf"), str(tmp_path / "x.gguf"), "Q8_0")
    assert missing.code == 2 and "there is no file" in missing.err


def test_hf_and_lora(command: Callable, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    peft = pytest.importorskip("peft")
    import warnings

    from tests.convert.tiny_checkpoints import write_checkpoint

    model = write_checkpoint(tmp_path / "checkpoint", "Qwen3")
    small = str(tmp_path / "small.gguf")
    made = command("convert", "hf", str(tmp_path / "checkpoint"), small, "--dtype", "f16")
    assert made.code == 0
    assert "qwen3" in made.out and "15 of 15 difficult texts" in made.out and "NFC" in made.err
    record = json.loads(command("convert", "hf", str(tmp_path / "checkpoint"), small, "--force", "--json").out)
    assert record["dtype"] == "f32" and record["texts_cut_otherwise"] == []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        options = {"task_type": "CAUSAL_LM", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj"]}
        peft.get_peft_model(model, peft.LoraConfig(**options)).save_pretrained(tmp_path / "adapter")
    arguments = ["convert", "lora", str(tmp_path / "adapter"), str(tmp_path / "lora.gguf"), "--untuned", small]
    made = command(*arguments)
    assert made.code == 0 and "rank 2: 2" in made.out
    assert json.loads(command(*arguments, "--force", "--json").out)["alpha"] == 4.0
    shutil.rmtree(tmp_path / "adapter")
    lost = command(*arguments, "--force")
    assert lost.code == 2 and "save_pretrained" in lost.err
    assert (tmp_path / "lora.gguf").exists()  # what was there before stays
