"""What a model file says about itself."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from gguf import GGUFWriter

from eft_gguf.errors import ModelFileError
from eft_gguf.models.metadata import Vocabulary, read_metadata
from tests.gguf_files import TEMPLATE, TOKENS, UNUSED, write_adapter, write_model


def vocabulary(path: Path) -> Vocabulary:
    found = read_metadata(path).vocabulary
    assert found is not None
    return found


def test_a_model(tmp_path: Path) -> None:
    path = write_model(tmp_path / "tiny.gguf", architecture="qwen2", name="Tiny", ctx=128)
    found = read_metadata(str(path))
    assert (found.path, found.architecture, found.name, found.kind) == (path, "qwen2", "Tiny", "model")
    assert (found.ctx_train, len(found.tensors), found.size_bytes) == (128, 2, path.stat().st_size)
    assert found.chat_template == TEMPLATE


def test_what_a_file_need_not_say(tmp_path: Path) -> None:
    path = write_model(tmp_path / "bare.gguf", kind=None, name=None, ctx=None, template=None, pre=None)
    found = read_metadata(path)
    assert (found.name, found.kind, found.ctx_train, found.chat_template) == ("bare", "model", None, None)
    assert vocabulary(path).pre == "default"


def test_an_adapter(tmp_path: Path) -> None:
    found = read_metadata(write_adapter(tmp_path / "lora.gguf"))
    assert (found.kind, found.vocabulary, found.ctx_train) == ("adapter", None, None)


def test_the_vocabulary(tmp_path: Path) -> None:
    special = {"bos": 1, "eos": 2, "eot": len(TOKENS), "padding": 2**32 - 1}  # the last two point outside
    found = vocabulary(write_model(tmp_path / "tiny.gguf", model="gpt2", pre="qwen2", special=special))
    assert (found.model, found.pre, found.size) == ("gpt2", "qwen2", len(TOKENS))
    assert [found.token(index).decode() for index in range(found.size)] == list(TOKENS)
    assert found.special == {"bos": 1, "eos": 2}
    assert (found.special_text("bos"), found.special_text("eos"), found.special_text("eot")) == (
        "<s>",
        "</s>",
        "",
    )


def test_tokens_that_are_no_utf8_are_read_too(tmp_path: Path) -> None:
    found = vocabulary(write_model(tmp_path / "bytes.gguf", tokens=[b"\xff", "</s>"], special={"eos": 0}))
    assert found.token(0) == b"\xff"
    assert found.special_text("eos") == "\ufffd"


def test_fields_leave_the_long_arrays_out(tmp_path: Path) -> None:
    fields = read_metadata(write_model(tmp_path / "tiny.gguf", merges=["a b"])).fields
    assert fields["llama.context_length"] == 64
    assert fields["tokenizer.ggml.eos_token_id"] == 2
    assert not {key for key in fields if key.endswith((".tokens", ".token_type", ".merges"))}


def test_fields_keep_short_arrays_as_lists(tmp_path: Path) -> None:
    writer = GGUFWriter(tmp_path / "arrays.gguf", "llama")
    writer.add_array("llama.attention.head_count_kv", [1, 2])
    writer.add_array("general.tags", ["eft"])
    writer.add_array("something.long", list(range(2000)))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    fields = read_metadata(tmp_path / "arrays.gguf").fields
    assert fields["llama.attention.head_count_kv"] == [1, 2]
    assert fields["general.tags"] == ["eft"]
    assert "something.long" not in fields


def test_padding_is_known_by_type_or_text(tmp_path: Path) -> None:
    tokens, types = ["a", "[PAD1]", "b"], [1, 1, UNUSED]
    found = vocabulary(write_model(tmp_path / "pad.gguf", tokens=tokens, types=types, special={"eos": 0}))
    assert [found.is_padding(index) for index in range(3)] == [False, True, True]


def test_first_difference(tmp_path: Path) -> None:
    one = vocabulary(write_model(tmp_path / "1.gguf", tokens=["a", "b", "c"]))
    shifted = vocabulary(write_model(tmp_path / "2.gguf", tokens=["a", "c", "b"]))
    longer = vocabulary(write_model(tmp_path / "3.gguf", tokens=["a", "b", "c", "d"]))
    assert one.first_difference(shifted) == 1
    assert one.first_difference(longer) is None
    assert longer.first_difference(one) is None


def damaged(path: Path) -> str:
    with pytest.raises(ModelFileError) as caught:
        read_metadata(path)
    assert caught.value.hint
    assert str(path) in caught.value.message
    return caught.value.message


def test_missing_file(tmp_path: Path) -> None:
    assert "there is no file" in damaged(tmp_path / "none.gguf")


def finish(writer: GGUFWriter) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_values_of_wrong_types(tmp_path: Path) -> None:
    path = tmp_path / "wrong.gguf"
    path.write_bytes(b"GGUF\x03\0\0\0" + bytes(16))
    assert "general.architecture is missing" in damaged(path)

    writer = GGUFWriter(path, "llama")
    writer.add_uint32("general.type", 3)
    finish(writer)
    assert "general.type is 3; it must be a text" in damaged(path)

    writer = GGUFWriter(path, "llama")
    writer.add_array("tokenizer.ggml.tokens", [1, 2])
    finish(writer)
    assert "tokenizer.ggml.tokens is no array of strings" in damaged(path)

    writer = GGUFWriter(path, "llama")
    writer.add_token_list(["a", "b"])
    writer.add_token_types([1])
    finish(writer)
    assert "tokenizer.ggml.token_type is no list of 2 numbers" in damaged(path)


def test_a_large_vocabulary_is_read_and_compared_fast(tmp_path: Path) -> None:
    tokens = [f"Ġtoken{index}" for index in range(152_000)]
    paths = [write_model(tmp_path / "a.gguf", tokens=tokens, merges=[f"Ġ t{i}" for i in range(150_000)])]
    tokens[-1] = "another"
    paths += [write_model(tmp_path / "b.gguf", tokens=tokens)]
    times = []
    for _ in range(3):
        # CPU time, best of three: other work on the machine must not fail the test. It takes some 0.03 s.
        begin = time.process_time()
        one = vocabulary(paths[0])
        times.append(time.process_time() - begin)
    assert min(times) < 0.1
    other = vocabulary(paths[1])
    begin = time.process_time()
    assert one.first_difference(other) == 151_999
    assert time.process_time() - begin < 0.05


REAL = Path.home() / ".cache" / "eft-gguf-models"


@pytest.mark.real_models
def test_real_models() -> None:
    large = vocabulary(REAL / "qwen2.5-coder-1.5b-instruct-q4_k_m.gguf")
    small = vocabulary(REAL / "qwen2.5-coder-0.5b-instruct-q4_k_m.gguf")
    other = vocabulary(REAL / "smollm2-135m-instruct-q4_1.gguf")
    assert (large.size, large.pre, other.size, other.pre) == (151_936, "qwen2", 49_152, "smollm")
    assert large.token(1) == b'"'
    assert large.special_text("eos") == "<|im_end|>"
    assert large.first_difference(small) is None
    assert large.first_difference(other) == 0
    begin = time.process_time()
    read_metadata(REAL / "qwen2.5-coder-1.5b-instruct-q4_k_m.gguf")
    assert time.process_time() - begin < 0.1


def split(folder: Path, *names: str) -> list[Path]:
    paths = [folder / name for name in names]
    for path in paths:
        write_model(path, extra={"split.count": len(paths)}, tensors=2)
    return paths


def test_a_model_in_several_files(tmp_path: Path) -> None:
    first, second = split(tmp_path, "big-00001-of-00002.gguf", "big-00002-of-00002.gguf")
    assert read_metadata(first).size_bytes == first.stat().st_size + second.stat().st_size
    with pytest.raises(ModelFileError, match="not the first part") as caught:
        read_metadata(second)
    assert str(first) in caught.value.hint
    second.unlink()
    with pytest.raises(ModelFileError, match=r"no file .*00002-of-00002\.gguf"):
        read_metadata(first)


def test_a_part_under_another_name(tmp_path: Path) -> None:
    first, _ = split(tmp_path, "renamed.gguf", "other.gguf")
    with pytest.raises(ModelFileError, match="its name does not say which") as caught:
        read_metadata(first)
    assert "MODEL-00001-of-00002.gguf" in caught.value.hint
