"""PEFT's adapters: llama.cpp with the converted one computes what PEFT does; what cannot be expressed is refused."""

from __future__ import annotations

import json
import shutil
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
peft = pytest.importorskip("peft")

from eft_gguf.convert.check import logits  # noqa: E402
from eft_gguf.convert.hf import convert_checkpoint  # noqa: E402
from eft_gguf.convert.lora import convert_adapter  # noqa: E402
from eft_gguf.engine.llama import Model  # noqa: E402
from eft_gguf.errors import CompatibilityError, EFTError, ModelFileError, OptionError  # noqa: E402
from tests.convert.tiny_checkpoints import write_checkpoint  # noqa: E402

# PEFT and transformers warn of one another's deprecations.
pytestmark = pytest.mark.filterwarnings(
    "ignore::FutureWarning", "ignore::UserWarning:peft", "ignore:The following alpha_pattern keys:RuntimeWarning"
)
IDS = [int(index) for index in np.random.default_rng(8).integers(10, 500, 64)]
ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
ADAPTERS: dict[str, tuple[str, dict[str, Any]]] = {
    "all layers": ("Llama 3", {"target_modules": ALL, "r": 4, "lora_alpha": 8}),
    "rank-stabilised": ("Llama 3", {"target_modules": ALL, "r": 9, "lora_alpha": 3, "use_rslora": True}),
    "patterns": (
        "Mistral",
        {
            "target_modules": ALL,
            "r": 4,
            "lora_alpha": 8,
            "rank_pattern": {"q_proj": 2, "layers.1.mlp.up_proj": 6},
            "alpha_pattern": {"layers.0.self_attn.k_proj": 20, "down_proj": 1},
        },
    ),
    "anchored patterns": (
        "Llama 3",
        {
            "target_modules": ALL,
            "r": 4,
            "lora_alpha": 8,
            "alpha_pattern": {"^q_proj": 100, "^model.layers.0.self_attn.k_proj": 20, "layers.1.self_attn.v_proj": 2},
        },
    ),
    "output layer": ("Llama 2", {"target_modules": ["q_proj", "lm_head"], "r": 3, "lora_alpha": 6}),
    "Qwen2": ("Qwen2", {"target_modules": "all-linear", "r": 4, "lora_alpha": 4}),
    "Qwen3": ("Qwen3", {"target_modules": ALL, "r": 2, "lora_alpha": 4}),
    "Gemma 3": ("Gemma 3", {"target_modules": ALL, "r": 2, "lora_alpha": 4, "layers_to_transform": [1, 5]}),
    "Falcon": (
        "Falcon 40B",
        {"target_modules": ["query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"], "r": 2, "lora_alpha": 4},
    ),
}


def train(model: Any, steps: int = 4) -> None:
    """Some steps on a made-up text: enough that B is no longer zero."""
    model.train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.02)
    batch = torch.tensor([IDS])
    for _ in range(steps):
        model(batch, labels=batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.eval()


@pytest.fixture(scope="module", params=list(ADAPTERS))
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Any, Any]:
    """Folder of the adapter, untuned GGUF, logits of PEFT's and of the untuned model."""
    series, options = ADAPTERS[request.param]
    folder = tmp_path_factory.mktemp("adapter")
    base = write_checkpoint(folder / "checkpoint", series)
    convert_checkpoint(folder / "checkpoint", folder / "untuned.gguf")
    with torch.no_grad():
        before = base(torch.tensor([IDS])).logits[0].numpy()
    torch.manual_seed(3)
    model = peft.get_peft_model(base, peft.LoraConfig(task_type="CAUSAL_LM", **options))
    train(model)
    model.save_pretrained(folder / "adapter")
    with torch.no_grad():
        after = model(torch.tensor([IDS])).logits[0].numpy()
    return folder / "adapter", folder / "untuned.gguf", after, before


def test_llama_cpp_computes_what_peft_computes(trained: tuple[Path, Path, Any, Any], tmp_path: Path) -> None:
    folder, untuned, after, before = trained
    assert np.abs(after - before).max() > 0.5  # else no adapter at all would pass
    convert_adapter(folder, tmp_path / "adapter.gguf", untuned)
    with closing(Model(untuned)) as model:
        computed = np.stack(list(logits(model, IDS, adapter=tmp_path / "adapter.gguf")))
    np.testing.assert_allclose(computed, after, atol=1e-3)


@pytest.fixture(scope="module")
def simple(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an adapter of one layer, on a model whose output layer is its embedding."""
    folder = tmp_path_factory.mktemp("simple")
    base = write_checkpoint(folder / "checkpoint", "SmolLM2")
    convert_checkpoint(folder / "checkpoint", folder / "untuned.gguf")
    write_checkpoint(folder / "other", "Qwen3")
    convert_checkpoint(folder / "other", folder / "other.gguf")
    options = {"task_type": "CAUSAL_LM", "r": 2, "lora_alpha": 2}
    peft.get_peft_model(base, peft.LoraConfig(target_modules=["q_proj"], **options)).save_pretrained(folder / "adapter")
    for name, special in {
        "dora": {"target_modules": ["q_proj"], "use_dora": True},
        "embedding": {"target_modules": ["embed_tokens"]},
        "saved": {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
        "biases": {"target_modules": ["q_proj"], "bias": "all"},
    }.items():
        base = write_checkpoint(folder / "checkpoint", "SmolLM2")
        peft.get_peft_model(base, peft.LoraConfig(**options, **special)).save_pretrained(folder / name)
    return folder


@pytest.mark.parametrize(
    ("name", "reason"),
    [("dora", "use_dora"), ("embedding", "embed"), ("saved", "modules_to_save"), ("biases", "trained biases")],
)
def test_what_cannot_be_expressed_is_refused(simple: Path, tmp_path: Path, name: str, reason: str) -> None:
    with pytest.raises(ModelFileError, match=reason) as error:
        convert_adapter(simple / name, tmp_path / "adapter.gguf", simple / "untuned.gguf")
    assert "merge" in error.value.hint
    assert list(tmp_path.iterdir()) == []


def _edit(folder: Path, **values: Any) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"peft_type": "IA3"}, "of type IA3"),
        ({"init_lora_weights": "pissa_niter_4"}, "changes the weights"),
        ({"init_lora_weights": "lora_ga"}, "changes the weights"),
        ({"alpha_pattern": {"(": 3}}, "no usable alpha_pattern"),
        ({"alpha_pattern": ["q_proj"]}, "no usable alpha_pattern"),
        ({"lora_alpha": None}, "no usable lora_alpha"),
    ],
)
def test_settings_that_mean_something_else(simple: Path, tmp_path: Path, values: dict[str, Any], reason: str) -> None:
    folder = Path(shutil.copytree(simple / "adapter", tmp_path / "adapter"))
    _edit(folder, **values)
    with pytest.raises(EFTError, match=reason):
        convert_adapter(folder, tmp_path / "adapter.gguf", simple / "untuned.gguf")
    assert not (tmp_path / "adapter.gguf").exists()


@pytest.fixture(scope="module")
def untied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an adapter on a model whose output layer is a tensor of its own."""
    folder = tmp_path_factory.mktemp("untied")
    base = write_checkpoint(folder / "checkpoint", "Llama 2")
    convert_checkpoint(folder / "checkpoint", folder / "untuned.gguf")
    np.save(folder / "head.npy", base.lm_head.weight.detach().numpy())
    config = peft.LoraConfig(task_type="CAUSAL_LM", r=2, lora_alpha=6, target_modules=["q_proj", "down_proj"])
    model = peft.get_peft_model(base, config)
    train(model)
    model.save_pretrained(folder / "adapter")
    return folder


@pytest.mark.parametrize(("factor", "kept"), [(1.0, True), (1.01, False)])
def test_an_output_layer_that_is_saved_along(untied: Path, tmp_path: Path, factor: float, kept: bool) -> None:
    from safetensors.numpy import load_file, save_file

    folder = Path(shutil.copytree(untied / "adapter", tmp_path / "adapter"))
    weights = load_file(folder / "adapter_model.safetensors")
    head = np.load(untied / "head.npy") * np.float32(factor)
    save_file({**weights, "base_model.model.lm_head.weight": head}, folder / "adapter_model.safetensors")
    if kept:
        assert convert_adapter(folder, tmp_path / "adapter.gguf", untied / "untuned.gguf").notes == []
        return
    with pytest.raises(ModelFileError, match=r"which was trained: it differs from the untuned model's by 1\.00%"):
        convert_adapter(folder, tmp_path / "adapter.gguf", untied / "untuned.gguf")


def test_another_model_is_refused(simple: Path, tmp_path: Path) -> None:
    with pytest.raises(CompatibilityError, match="is adapted as a layer of"):
        convert_adapter(simple / "adapter", tmp_path / "adapter.gguf", simple / "other.gguf")


def test_missing_and_damaged_folders(simple: Path, tmp_path: Path) -> None:
    output, untuned = tmp_path / "adapter.gguf", simple / "untuned.gguf"
    with pytest.raises(ModelFileError, match=r"no adapter_config\.json"):
        convert_adapter(simple / "checkpoint", output, untuned)
    folder = Path(shutil.copytree(simple / "adapter", tmp_path / "adapter"))
    weights = folder / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ModelFileError, match="cut short"):
        convert_adapter(folder, output, untuned)
    weights.unlink()
    with pytest.raises(ModelFileError, match=r"no adapter_model\.safetensors"):
        convert_adapter(folder, output, untuned)
    (folder / "adapter_model.bin").write_bytes(b"PK")
    with pytest.raises(ModelFileError, match="can run code"):
        convert_adapter(folder, output, untuned)
    assert not output.exists()


def test_an_output_is_replaced_only_when_forced(simple: Path, tmp_path: Path) -> None:
    output = tmp_path / "adapter.gguf"
    output.write_text("precious")
    with pytest.raises(OptionError, match="exists already"):
        convert_adapter(simple / "adapter", output, simple / "untuned.gguf")
    assert output.read_text() == "precious"
    assert convert_adapter(simple / "adapter", output, simple / "untuned.gguf", force=True).modules == 2
