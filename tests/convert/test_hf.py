"""Checkpoints of all series: llama.cpp computes what transformers does, and cuts texts as the tokenizer does."""

from __future__ import annotations

import json
import shutil
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
sentencepiece = pytest.importorskip("sentencepiece")
safetensors = pytest.importorskip("safetensors.torch")

from eft_gguf.convert.check import TEXTS, logits  # noqa: E402
from eft_gguf.convert.gguf_file import GGUFFile  # noqa: E402
from eft_gguf.convert.hf import Converted, convert_checkpoint  # noqa: E402
from eft_gguf.convert.vocabulary import read_vocabulary  # noqa: E402
from eft_gguf.engine.llama import Model  # noqa: E402
from eft_gguf.errors import ModelFileError  # noqa: E402
from eft_gguf.models.metadata import read_metadata  # noqa: E402
from tests.convert.tiny_checkpoints import ROOM, SERIES, write_checkpoint  # noqa: E402

IDS = [int(index) for index in np.random.default_rng(7).integers(10, 500, 64)]


class Made:
    """A checkpoint of a series, and what it was converted to, once for all tests of it."""

    def __init__(self, folder: Path, name: str) -> None:
        self.name, self.series, self.folder = name, SERIES[name], folder / "checkpoint"
        self.model = write_checkpoint(self.folder, name)
        self.path = folder / "model.gguf"
        self.result: Converted = convert_checkpoint(self.folder, self.path)


@pytest.fixture(scope="module", params=list(SERIES))
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Made:
    return Made(tmp_path_factory.mktemp("series"), str(request.param))


def test_llama_cpp_computes_what_transformers_computes(made: Made) -> None:
    with torch.no_grad():
        expected = made.model(torch.tensor([IDS])).logits[0].float().numpy()
    with closing(Model(made.path)) as model:
        computed = np.stack(list(logits(model, IDS)))
    assert np.abs(expected).max() > 1.0  # else a wrong model would pass
    np.testing.assert_allclose(computed, expected, atol=1e-3)


def test_texts_are_cut_as_by_the_tokenizer(made: Made) -> None:
    # Mistral's marks of Thai and Hindi vowels are letters to the tokenizer, and none to llama.cpp's "tekken".
    otherwise = [TEXTS[index] for index in made.series.cut_otherwise]
    assert made.result.texts_cut_otherwise == otherwise
    assert any("cuts 1 of" in note for note in made.result.notes) is bool(otherwise)
    if made.series.tokenizer is None:  # compared with SentencePiece itself
        return
    tokenizer = transformers.AutoTokenizer.from_pretrained(made.folder)
    with closing(Model(made.path, vocab_only=True)) as model:
        assert model.n_vocab == ROOM
        for text in TEXTS:
            if text in otherwise:
                continue
            ids = model.tokenize(text, special=True)
            assert ids == tokenizer(text, add_special_tokens=False).input_ids, text
            assert len(ids) >= 1
        # What stands in front, unasked, is the same too.
        front = tokenizer("x").input_ids[: -len(tokenizer("x", add_special_tokens=False).input_ids)]
        assert front == ([model.bos] if model.add_bos else [])


def test_roles_and_template_come_along(made: Made) -> None:
    metadata = read_metadata(made.path)
    vocabulary = metadata.vocabulary
    assert vocabulary is not None
    assert metadata.architecture == made.series.architecture == made.result.architecture
    assert vocabulary.pre == made.series.pre
    assert metadata.chat_template is not None or made.series.tokenizer is None
    for role, text in made.series.special.items():
        name = {"unk": "unknown", "pad": "padding"}.get(role.removesuffix("_token"), role.removesuffix("_token"))
        assert vocabulary.special_text(name) == text
    with closing(Model(made.path, vocab_only=True)) as model:
        for index in made.series.settings.get("eos_token_id", []):
            assert model.is_end(index)
    eot = {"Gemma 3": "<end_of_turn>"}.get(made.name, "")  # Llama 3's is its end, and known by its text
    assert vocabulary.special_text("eot") == eot
    assert made.result.tensors == len(metadata.tensors)


def test_a_role_that_is_not_named_is_no_token_of_that_text(tmp_path: Path) -> None:
    """Real vocabularies have the word None, and tokenizer_config.json may lack a role, or have null for it."""
    write_checkpoint(tmp_path / "checkpoint", "Qwen3")
    path = tmp_path / "checkpoint" / "tokenizer.json"
    entry = json.loads(path.read_text())
    entry["model"]["vocab"]["None"] = max(entry["model"]["vocab"].values()) + 1
    path.write_text(json.dumps(entry))
    convert_checkpoint(tmp_path / "checkpoint", tmp_path / "model.gguf")
    vocabulary = read_metadata(tmp_path / "model.gguf").vocabulary
    assert vocabulary is not None
    assert {role: vocabulary.special_text(role) for role in vocabulary.special} == {
        "eos": "<|im_end|>",
        "padding": "<|endoftext|>",
    }


def edit(path: Path, **values: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_a_configuration_of_transformers_5_and_templates_in_files_of_their_own(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint"
    write_checkpoint(folder, "Llama 3")
    config = json.loads((folder / "config.json").read_text())
    for key in ("rope_theta", "rope_scaling", "torch_dtype"):
        config.pop(key, None)
    rope = {"rope_type": "yarn", "rope_theta": 500_000, "factor": 4, "original_max_position_embeddings": 64}
    (folder / "config.json").write_text(json.dumps(config | {"rope_parameters": rope, "dtype": "float32"}))
    edit(folder / "tokenizer_config.json", extra_special_tokens=["<x>"])
    (folder / "chat_template.jinja").write_text("{{ 'first' }}")
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "tool_use.jinja").write_text("{{ 'tools' }}")
    convert_checkpoint(folder, tmp_path / "model.gguf")
    fields = read_metadata(tmp_path / "model.gguf").fields
    assert fields["llama.rope.freq_base"] == 500_000
    assert fields["llama.rope.scaling.type"] == "yarn"
    assert fields["llama.rope.scaling.factor"] == 4
    assert fields["llama.rope.scaling.original_context_length"] == 64
    assert fields["tokenizer.chat_template"] == "{{ 'first' }}"
    assert fields["tokenizer.chat_template.tool_use"] == "{{ 'tools' }}"


@pytest.mark.parametrize("series", ["Qwen2", "Gemma 3"])
def test_positions_scaled_as_in_llama_3_are_refused_elsewhere(tmp_path: Path, series: str) -> None:
    folder = tmp_path / "checkpoint"
    write_checkpoint(folder, series)
    config = json.loads((folder / "config.json").read_text())
    llama3 = {
        "rope_type": "llama3", "rope_theta": 10_000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    }  # fmt: skip
    parameters = config.get("rope_parameters") or {}
    nested = {**parameters, "full_attention": llama3} if "full_attention" in parameters else llama3
    edit(folder / "config.json", rope_parameters=nested)
    with pytest.raises(ModelFileError, match=r"scaled as in Llama 3\.1"):
        convert_checkpoint(folder, tmp_path / "model.gguf")
    assert not (tmp_path / "model.gguf").exists()


def test_tokens_that_a_fine_tuning_added(tmp_path: Path) -> None:
    """One that is text is cut and shown; one marked special is control, is never drawn, and is named in a note."""
    folder = tmp_path / "checkpoint"
    write_checkpoint(folder, "Qwen3")
    path = folder / "tokenizer.json"
    entry = json.loads(path.read_text())
    first = max(max(entry["model"]["vocab"].values()), *(token["id"] for token in entry["added_tokens"])) + 1
    for number, (text, special) in enumerate((("Section5A", False), ("Form12", True))):
        token = {**entry["added_tokens"][0], "id": first + number, "content": text, "special": special}
        entry["added_tokens"].append(token)
    path.write_text(json.dumps(entry))
    made = convert_checkpoint(folder, tmp_path / "model.gguf")
    vocabulary = read_metadata(tmp_path / "model.gguf").vocabulary
    assert vocabulary is not None and vocabulary.types is not None
    assert vocabulary.types[first : first + 2].tolist() == [4, 3]
    with closing(Model(tmp_path / "model.gguf", vocab_only=True)) as model:
        assert first in model.tokenize("see Section5A", special=True)
        assert model.piece(first) == b"Section5A"
    assert any("'Form12'" in note and "neither drawn nor shown" in note for note in made.notes)
    assert not any("Section5A" in note for note in made.notes)


def test_scores_of_a_tokenizer_model_are_kept(tmp_path: Path) -> None:
    """tokenizer.json has the order of merges only; the numbers are those that files of other converters have."""
    write_checkpoint(tmp_path / "checkpoint", "Llama")
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "checkpoint" / "tokenizer.model"))
    vocab = {pieces.id_to_piece(index): index for index in range(pieces.vocab_size())}
    special = [{"id": index, "content": text, "special": True} for index, text in enumerate(("<unk>", "<s>", "</s>"))]
    model = {"type": "BPE", "byte_fallback": True, "unk_token": "<unk>", "vocab": vocab, "merges": []}
    entry = {"version": "1.0", "added_tokens": special, "model": model}
    (tmp_path / "checkpoint" / "tokenizer.json").write_text(json.dumps(entry))
    vocabulary = read_vocabulary(tmp_path / "checkpoint", ROOM)
    assert vocabulary.scores[300:400] == pytest.approx([pieces.get_score(index) for index in range(300, 400)])


def test_added_tokens_without_a_row_are_left_out(tmp_path: Path) -> None:
    """As Gemma 3's token for images, of the model that sees none."""
    write_checkpoint(tmp_path / "checkpoint", "Gemma 3")
    path = tmp_path / "checkpoint" / "tokenizer.json"
    entry = json.loads(path.read_text())
    entry["added_tokens"].append({**entry["added_tokens"][0], "id": ROOM, "content": "<image_soft_token>"})
    path.write_text(json.dumps(entry))
    made = convert_checkpoint(tmp_path / "checkpoint", tmp_path / "model.gguf")
    assert made.vocabulary == ROOM
    assert any("<image_soft_token>" in note for note in made.notes)
    assert made.texts_cut_otherwise == []


def test_the_language_model_of_one_that_sees_images(tmp_path: Path) -> None:
    """Gemma 3 from 4B on: its text model lies one level down, in the configuration and in the names of tensors."""
    plain, nested = tmp_path / "plain", tmp_path / "nested"
    write_checkpoint(plain, "Gemma 3")
    shutil.copytree(plain, nested)
    config = json.loads((plain / "config.json").read_text())
    outer = {"architectures": ["Gemma3ForConditionalGeneration"], "model_type": "gemma3", "eos_token_id": [1, 5]}
    (nested / "config.json").write_text(json.dumps(outer | {"text_config": config | {"architectures": None}}))
    tensors = safetensors.load_file(plain / "model.safetensors")
    moved = {name.replace("model.", "language_model.model.", 1): tensor for name, tensor in tensors.items()}
    moved["vision_tower.vision_model.head.weight"] = torch.ones(2, 2)
    safetensors.save_file(moved, nested / "model.safetensors")
    convert_checkpoint(plain, tmp_path / "plain.gguf")
    made = convert_checkpoint(nested, tmp_path / "nested.gguf")
    assert any("only the language model" in note for note in made.notes)
    one, other = GGUFFile(tmp_path / "plain.gguf"), GGUFFile(tmp_path / "nested.gguf")
    assert one.tensors.keys() == other.tensors.keys()
    for name in one.tensors:
        np.testing.assert_array_equal(one.raw(name), other.raw(name))
