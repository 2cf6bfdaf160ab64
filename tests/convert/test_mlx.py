"""Adapters in the form that `mlx_lm.lora` writes, made here with NumPy: llama.cpp computes base + scale · B · A.

The form is that of mlx-lm as published: A lies as (columns, rank), B as (rank, rows), under the names of its layers,
which count from the first; `num_layers` counts from the last.
"""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from eft_gguf.convert.check import logits  # noqa: E402
from eft_gguf.convert.hf import convert_checkpoint  # noqa: E402
from eft_gguf.convert.lora import convert_adapter  # noqa: E402
from eft_gguf.engine.llama import Model  # noqa: E402
from eft_gguf.errors import CompatibilityError, EFTError, ModelFileError  # noqa: E402
from tests.convert.tiny_checkpoints import write_checkpoint  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")
IDS = [int(index) for index in np.random.default_rng(8).integers(10, 500, 64)]
DEFAULT = ["self_attn.q_proj", "self_attn.v_proj"]  # what mlx_lm adapts in these series where keys are not given
EVERY = [f"self_attn.{name}_proj" for name in "qkvo"] + [f"mlp.{name}_proj" for name in ("gate", "up", "down")]
CASES: dict[str, tuple[str, list[str], dict[str, Any]]] = {
    "Llama": ("Llama", EVERY, {"num_layers": -1}),
    "Llama 3, last layer": ("Llama 3", EVERY, {"num_layers": 1}),
    "Mistral": ("Mistral", EVERY, {"num_layers": 16}),
    "Qwen2": ("Qwen2", EVERY, {"num_layers": 2}),
    "Qwen2, keys by default": ("Qwen2", DEFAULT, {"num_layers": 1, "named": False}),
    "Qwen3": ("Qwen3", EVERY, {"num_layers": -1}),
    "Gemma 3": ("Gemma 3", EVERY, {"num_layers": 3}),
    "SmolLM2": ("SmolLM2", EVERY, {"num_layers": -1}),
    "output layer": ("Llama 2", ["self_attn.q_proj", "lm_head"], {"num_layers": 1}),
}
RANK, SCALE = 3, 2.5


def write_safetensors(path: Path, tensors: dict[str, np.ndarray], dtype: str = "F32") -> None:
    header, data = {}, b""
    for name, values in tensors.items():
        raw = np.ascontiguousarray(values, {"F32": "<f4", "F16": "<f2", "I32": "<i4"}[dtype]).tobytes()
        header[name] = {
            "dtype": dtype,
            "shape": list(values.shape),
            "data_offsets": [len(data), len(data) + len(raw)],
        }
        data += raw
    text = json.dumps({**header, "__metadata__": {"format": "mlx"}}).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


def write_adapter(folder: Path, base: Any, keys: list[str], num_layers: int, *, named: bool = True) -> dict[str, Any]:
    """The folder that mlx_lm.lora leaves, and what each weight changes by, in the weight's own order."""
    layers = base.config.num_hidden_layers
    first = max(layers - num_layers, 0) if num_layers > 0 else 0
    random, tensors, changes = np.random.default_rng(5), {}, {}
    for name, weight in base.state_dict().items():
        module = name.removesuffix(".weight")
        _, inside, rest = module.partition("layers.")
        number, _, key = rest.partition(".")
        if (module not in keys) if not inside else (key not in keys or int(number) < first):
            continue
        rows, columns = weight.shape
        a = random.normal(size=(columns, RANK)).astype(np.float32) / columns**0.5
        b = random.normal(size=(RANK, rows)).astype(np.float32) / 2
        tensors |= {f"{module}.lora_a": a, f"{module}.lora_b": b}
        changes[name] = SCALE * (b.T @ a.T)
    folder.mkdir()
    write_safetensors(folder / "adapters.safetensors", tensors)
    write_safetensors(folder / "0000100_adapters.safetensors", tensors)  # mlx_lm keeps these beside it
    parameters = {"rank": RANK, "scale": SCALE, "dropout": 0.0, **({"keys": keys} if named else {})}
    config = {"model": "somebody/model", "fine_tune_type": "lora", "num_layers": num_layers, "seed": 0}
    (folder / "adapter_config.json").write_text(json.dumps({**config, "lora_parameters": parameters}))
    return changes


@pytest.mark.parametrize("case", list(CASES))
def test_llama_cpp_computes_what_mlx_lm_computes(case: str, tmp_path: Path) -> None:
    series, keys, options = CASES[case]
    base = write_checkpoint(tmp_path / "checkpoint", series)
    convert_checkpoint(tmp_path / "checkpoint", tmp_path / "untuned.gguf")
    changes = write_adapter(tmp_path / "adapter", base, keys, **options)
    with torch.no_grad():
        before = base(torch.tensor([IDS])).logits[0].numpy()
        for name, change in changes.items():
            base.state_dict()[name] += torch.from_numpy(change)
        after = base(torch.tensor([IDS])).logits[0].numpy()
    assert np.abs(after - before).max() > 0.5  # else no adapter at all would pass

    made = convert_adapter(tmp_path / "adapter", tmp_path / "adapter.gguf", tmp_path / "untuned.gguf")

    assert made.modules == len(changes) and made.ranks == {str(RANK): len(changes)}
    assert made.alpha == SCALE * RANK and made.notes == []
    with closing(Model(tmp_path / "untuned.gguf")) as model:
        computed = np.stack(list(logits(model, IDS, adapter=tmp_path / "adapter.gguf")))
    np.testing.assert_allclose(computed, after, atol=1e-3)


@pytest.fixture(scope="module")
def untuned(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    folder = tmp_path_factory.mktemp("mlx")
    base = write_checkpoint(folder / "checkpoint", "Qwen2")
    convert_checkpoint(folder / "checkpoint", folder / "untuned.gguf")
    return folder / "untuned.gguf", base


def refusal(untuned: tuple[Path, Any], folder: Path, config: dict[str, Any], **tensors: np.ndarray) -> EFTError:
    """What converting says about an adapter whose configuration or tensors are changed so."""
    write_adapter(folder / "adapter", untuned[1], DEFAULT, 1)
    path = folder / "adapter" / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | config))
    if tensors:
        write_safetensors(folder / "adapter" / "adapters.safetensors", tensors)
    with pytest.raises(EFTError) as error:
        convert_adapter(folder / "adapter", folder / "adapter.gguf", untuned[0])
    assert not (folder / "adapter.gguf").exists() and error.value.hint
    return error.value


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"fine_tune_type": "dora"}, "trained as DoRA"),
        ({"use_dora": True}, "trained as DoRA"),
        ({"fine_tune_type": "full"}, "full fine-tuning"),
        ({"fine_tune_type": "new"}, "unknown fine_tune_type 'new'"),
        ({"lora_parameters": {"rank": 3}}, "no usable lora_parameters.scale: None"),
        ({"lora_parameters": {"rank": 0, "scale": 1.0}}, "no usable lora_parameters.rank: 0"),
        ({"lora_parameters": {"rank": 3, "scale": float("nan")}}, "no usable lora_parameters.scale: nan"),
        ({"lora_parameters": []}, "no usable lora_parameters.rank: None"),
        ({"lora_parameters": {"rank": 4, "scale": 1.0}}, "with rank 4 they are"),
        ({"lora_parameters": {"rank": 3, "scale": 1.0, "keys": ["mlp.up_proj"]}}, "which lora_parameters.keys does"),
        ({"num_layers": "all"}, "no usable num_layers: 'all'"),
    ],
)
def test_settings_that_are_refused(untuned: tuple[Path, Any], tmp_path: Path, config: Any, reason: str) -> None:
    error = refusal(untuned, tmp_path, config)
    assert reason in error.message and isinstance(error, ModelFileError)


def test_layers_that_mlx_lm_would_not_adapt_tell_of_another_model(untuned: tuple[Path, Any], tmp_path: Path) -> None:
    module = "model.layers.0.self_attn.q_proj"
    pair = {f"{module}.lora_a": np.zeros((64, 3)), f"{module}.lora_b": np.zeros((3, 64))}
    error = refusal(untuned, tmp_path, {"num_layers": 1}, **pair)
    assert isinstance(error, CompatibilityError) and "changes layer 0, which is not among the last 1" in error.message


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        (["lora_a", "lora_b", "m"], "which only DoRA has"),
        (["lora_a"], "only one of lora_a and lora_b"),
        (["lora_a", "lora_b", "weight"], "holds more than A and B"),
    ],
)
def test_tensors_that_are_refused(untuned: tuple[Path, Any], tmp_path: Path, names: list[str], reason: str) -> None:
    last = untuned[1].config.num_hidden_layers - 1
    tensors = {f"model.layers.{last}.self_attn.q_proj.{name}": np.zeros((3, 3)) for name in names}
    assert reason in refusal(untuned, tmp_path, {}, **tensors).message


def test_a_quantized_base_and_an_old_alpha_are_named(untuned: tuple[Path, Any], tmp_path: Path) -> None:
    write_adapter(tmp_path / "adapter", untuned[1], DEFAULT, 1)
    path = tmp_path / "adapter" / "adapter_config.json"
    config = json.loads(path.read_text()) | {"model": "mlx-community/Qwen2.5-0.5B-Instruct-4bit"}
    config["lora_parameters"]["alpha"] = 16
    path.write_text(json.dumps(config))
    made = convert_adapter(tmp_path / "adapter", tmp_path / "adapter.gguf", untuned[0])
    assert "Qwen2.5-0.5B-Instruct-4bit, a base quantized to 4 bits" in made.notes[0] and "alpha" in made.notes[1]
    assert made.alpha == SCALE * RANK
