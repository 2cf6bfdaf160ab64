"""What would end the process is refused before llama.cpp sees it, with the key and its value."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from eft_gguf.doctor.files import Members
from eft_gguf.errors import ModelFileError
from eft_gguf.models.cache import head_sizes, kv_heads, number
from eft_gguf.models.family import family_from_references
from eft_gguf.models.fields import text, whole_number, whole_numbers
from eft_gguf.models.header import StringArray
from eft_gguf.models.metadata import read_metadata
from eft_gguf.models.soundness import first_repeated, require_sound
from tests.hostile.gguf_layout import ARRAY, BOOL, F32, I32, STRING, U32, U64, Layout, parse
from tests.tiny_models import write_tiny_model

PATH = Path("model.gguf")


def changed(folder: Path, change: Callable[[Layout], object]) -> Path:
    path = write_tiny_model(folder / "model.gguf")
    layout = parse(path.read_bytes())
    change(layout)
    path.write_bytes(layout.bytes())
    return path


def put(key: str, kind: int, value: object) -> Callable[[Layout], object]:
    return lambda layout: layout.put(key.encode(), kind, value)


def retyped(name: str, kind: int) -> Callable[[Layout], object]:
    def change(layout: Layout) -> None:
        next(info for info in layout.tensors if info.name == name.encode()).kind = kind

    return change


WRONG: dict[str, tuple[Callable[[Layout], object], str]] = {
    "no layers": (put("llama.block_count", U32, 0), "llama.block_count is 0; it must be a whole number from 1 to 512"),
    "many layers": (put("llama.block_count", U32, 2_000_000_000), "llama.block_count is 2,000,000,000"),
    "a text": (put("llama.feed_forward_length", STRING, b"x"), "llama.feed_forward_length is 'x'"),
    "a list of nothing": (put("llama.embedding_length", ARRAY, (U32, [])), r"llama.embedding_length is \[\]"),
    "a negative number": (put("llama.context_length", I32, -1), "llama.context_length is -1"),
    "a truth": (put("llama.attention.head_count", BOOL, 1), "llama.attention.head_count is True"),
    "a fraction": (put("llama.attention.head_count", F32, 2.5), "llama.attention.head_count is 2.5"),
    "a huge number": (put("llama.attention.key_length", U64, 2**63), "llama.attention.key_length is 9,223,372,036,85"),
    "experts of which none is used": (put("llama.expert_count", U32, 1), "llama.expert_used_count is 0"),
    "too many experts": (put("llama.expert_count", U32, 2**31 - 1), "llama.expert_count is 2,147,483,647"),
    "used experts where there are none": (put("llama.expert_used_count", U32, 1), "llama.expert_used_count is 1"),
    "an unknown scaling": (put("llama.rope.scaling.type", STRING, b"x"), "llama.rope.scaling.type is 'x'"),
    "no number": (put("llama.attention.layer_norm_rms_epsilon", F32, math.nan), "layer_norm_rms_epsilon is nan"),
    "an escape sequence": (put("general.architecture", STRING, b"\x1b]0;owned\x07"), r"is '\\x1b\]0;owned\\x07'"),
    "a norm of whole numbers": (retyped("output_norm.weight", 26), "output_norm.weight' is of type I32"),
    "an embedding of whole numbers": (retyped("token_embd.weight", 25), "token_embd.weight' is of type I16"),
    "a matrix of bytes": (retyped("blk.1.ffn_down.weight", 24), "ffn_down.weight' is of type I8"),
    "a matrix of intermediate results": (retyped("blk.1.ffn_down.weight", 9), "ffn_down.weight' is of type Q8_1"),
    "a norm in blocks": (retyped("output_norm.weight", 8), "output_norm.weight' is of type Q8_0"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_would_end_the_process_is_refused(tmp_path: Path, name: str) -> None:
    change, reason = WRONG[name]
    path = changed(tmp_path, change)
    with pytest.raises(ModelFileError, match=reason) as caught:
        require_sound(read_metadata(path))
    assert str(path) in caught.value.message
    assert "memory" not in caught.value.hint
    with pytest.raises(ModelFileError, match=reason):
        Members.of(family_from_references(path, path, str(path)))


def test_a_tensor_that_begins_between_the_places_llama_cpp_maps(tmp_path: Path) -> None:
    def change(layout: Layout) -> None:
        layout.put(b"general.alignment", U32, 1)
        layout.alignment = 1

    with pytest.raises(ModelFileError, match=r"no multiple of 32 \(general.alignment is 1\)"):
        require_sound(read_metadata(changed(tmp_path, change)))


def test_a_sound_model_is_taken(tmp_path: Path) -> None:
    require_sound(read_metadata(write_tiny_model(tmp_path / "model.gguf")))
    require_sound(read_metadata(write_tiny_model(tmp_path / "model.gguf", quantization="Q8_0")))


def test_an_id_that_is_a_truth_is_none(tmp_path: Path) -> None:
    model = read_metadata(changed(tmp_path, put("tokenizer.ggml.eos_token_id", BOOL, 1)))
    assert model.vocabulary is not None
    assert "eos" not in model.vocabulary.special
    assert model.vocabulary.special_text("eos") == ""


@pytest.mark.parametrize("value", [None, 0, 7, [3, 4]])
def test_numbers_within_bounds(value: object) -> None:
    fields = {} if value is None else {"k": value}
    wanted = value if value is None or isinstance(value, list) else [value]
    assert whole_numbers(PATH, fields, "k", most=7) == wanted
    if not isinstance(value, list):
        assert whole_number(PATH, fields, "k", most=7) == value


@pytest.mark.parametrize("value", [-1, 8, True, 1.0, math.nan, "1", [], [1, "x"], [1, -1], [[1]]])
def test_values_that_are_no_such_numbers(value: object) -> None:
    with pytest.raises(ModelFileError, match=r"model\.gguf: k is .*; it must be a whole number from 0 to 7"):
        whole_numbers(PATH, {"k": value}, "k", most=7)


def test_a_list_where_one_number_belongs_and_a_number_where_a_text_belongs() -> None:
    with pytest.raises(ModelFileError, match="one number, no list"):
        whole_number(PATH, {"k": [1, 2]}, "k")
    with pytest.raises(ModelFileError, match="k is 3; it must be a text"):
        text(PATH, {"k": 3}, "k")
    assert text(PATH, {"k": "x"}, "k") == "x"


def test_a_plan_reads_the_same_numbers(tmp_path: Path) -> None:
    model = read_metadata(changed(tmp_path, put("llama.attention.head_count_kv", ARRAY, (U32, [2, 1]))))
    assert kv_heads(model) == [2, 1]
    assert number(model, "attention.head_count_kv") == 2
    assert head_sizes(model) == (16, 16)
    wrong = read_metadata(changed(tmp_path, put("llama.attention.head_count_kv", STRING, b"x" * 5000)))
    begun = time.process_time()
    with pytest.raises(ModelFileError) as caught:
        kv_heads(wrong)
    assert len(caught.value.message) < 300
    many = read_metadata(changed(tmp_path, put("llama.block_count", U32, 50_000_000)))
    with pytest.raises(ModelFileError, match="block_count is 50,000,000"):
        kv_heads(many)
    assert time.process_time() - begun < 1


def strings(*texts: bytes) -> StringArray:
    blob = b"".join(len(text).to_bytes(8, "little") + text for text in texts)
    starts = np.cumsum([0, *(8 + len(text) for text in texts[:-1])]) if texts else np.zeros(0)
    return StringArray(blob, starts.astype(np.int64))


@pytest.mark.parametrize(
    ("texts", "index"),
    [
        ([], None),
        ([b"a"], None),
        ([b"a", b"b", b"ab", b"ba", b""], None),
        ([b"a", b"b", b"a"], 2),
        ([b"", b"x", b""], 2),
    ],
)
def test_repeated_strings_are_found(texts: list[bytes], index: int | None) -> None:
    assert first_repeated(strings(*texts)) == index


def test_of_many_strings_the_one_that_is_repeated_is_found() -> None:
    many = [f"token {number}".encode() for number in range(20_000)]
    assert first_repeated(strings(*many)) is None
    assert first_repeated(strings(*many, many[123])) == 20_000
