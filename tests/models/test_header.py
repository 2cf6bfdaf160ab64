"""The walker over a GGUF header: what it reads, and that damaged files raise ModelFileError, nothing else."""

from __future__ import annotations

import os
import struct
import time
from pathlib import Path

import numpy as np
import pytest
from gguf import GGML_QUANT_SIZES, GGUFWriter
from hypothesis import example, given, settings
from hypothesis import strategies as st

from eft_gguf.errors import ModelFileError
from eft_gguf.models import header
from eft_gguf.models.header import StringArray, open_gguf, read_header
from eft_gguf.printable import printable
from tests.gguf_files import write_model

U64 = struct.Struct("<Q")
SMALL = b"GGUF" + struct.pack("<IQQ", 3, 0, 1)  # a header of one key, which is to follow


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("header") / "tiny.gguf", merges=["a b"])


def text(value: bytes | str) -> bytes:
    data = value.encode() if isinstance(value, str) else value
    return U64.pack(len(data)) + data


def array_of(strings: list[bytes]) -> StringArray:
    starts = np.cumsum([0] + [8 + len(string) for string in strings])[:-1]
    return StringArray(b"".join(text(string) for string in strings), starts.astype(np.int64))


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def test_reads_every_kind_of_value(tmp_path: Path) -> None:
    writer = GGUFWriter(tmp_path / "values.gguf", "llama")
    writer.add_uint8("u8", 200)
    writer.add_int8("i8", -7)
    writer.add_uint16("u16", 60_000)
    writer.add_int16("i16", -30_000)
    writer.add_uint32("u32", 4_000_000_000)
    writer.add_int32("i32", -2_000_000_000)
    writer.add_uint64("u64", 2**63)
    writer.add_int64("i64", -(2**62))
    writer.add_float32("f32", 0.5)
    writer.add_float64("f64", 0.1)
    writer.add_bool("yes", True)
    writer.add_string("text", "naïve")
    writer.add_array("numbers", [1, -2, 3])
    writer.add_array("flags", [True, False])
    writer.add_array("texts", ["a", "", "é"])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    values = read_header(tmp_path / "values.gguf").values
    numbers, flags, texts = (values.pop(key) for key in ("numbers", "flags", "texts"))
    assert numbers.tolist() == [1, -2, 3]
    assert flags.tolist() == [True, False]
    assert [texts[index] for index in range(len(texts))] == [b"a", b"", "é".encode()]
    assert values == {
        "general.architecture": "llama",
        "u8": 200,
        "i8": -7,
        "u16": 60_000,
        "i16": -30_000,
        "u32": 4_000_000_000,
        "i32": -2_000_000_000,
        "u64": 2**63,
        "i64": -(2**62),
        "f32": 0.5,
        "f64": 0.1,
        "yes": True,
        "text": "naïve",
    }


def test_reads_tensors_and_size(model: Path) -> None:
    found = read_header(model)
    assert len(found.tensors) == 2
    assert found.size_bytes == model.stat().st_size


def test_block_sizes_are_those_of_the_gguf_package() -> None:
    for kind, sizes in GGML_QUANT_SIZES.items():
        assert header.BLOCKS[int(kind)] == sizes, kind


# Lengths of 0, of 255 to 256 (two bytes) and of 65,536 (three), and texts with zeros in them: where the
# search for starts without a loop can go astray.
STRINGS = st.lists(
    st.one_of(
        st.binary(max_size=12),
        st.sampled_from([b"", b"\0", b"\0" * 7, b"\0" * 8, b"x" * 255, b"x" * 256, b"x" * 65_536, b"\1" + b"\0" * 7]),
    ),
    max_size=30,
)


@settings(deadline=None)
@given(strings=STRINGS, after=st.binary(max_size=30))
@example(strings=[b"a", b"bc"], after=b"")
@example(strings=[b"a" * 300, b""], after=b"\0" * 20)
def test_string_arrays_read_as_written(
    tmp_path_factory: pytest.TempPathFactory, strings: list[bytes], after: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "strings.gguf"
    data = SMALL + text("texts") + struct.pack("<IIQ", 9, 8, len(strings)) + b"".join(map(text, strings)) + after
    texts = read_header(write(path, data)).values["texts"]
    assert [texts[index] for index in range(len(texts))] == strings


def test_ordinary_strings_are_found_without_a_loop() -> None:
    strings = [b"a", "Ġ".encode() * 128, *(f"Ġtoken{index}".encode() for index in range(1000))]
    array = array_of(strings)
    starts = header._starts_at_a_glance(np.frombuffer(array.blob, np.uint8), len(strings))
    assert starts is not None
    assert starts.tolist() == array.starts.tolist()


@settings(deadline=None)
@given(one=STRINGS, other=STRINGS)
def test_first_difference_agrees_with_a_plain_walk(one: list[bytes], other: list[bytes]) -> None:
    plain = next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), None)
    assert array_of(one).first_difference(array_of(other)) == plain


def test_indexes_outside_a_string_array_are_refused() -> None:
    array = array_of([b"a"])
    for index in (-1, 1):
        with pytest.raises(IndexError):
            array[index]


# --- what is no model file ---


def refused(path: Path) -> ModelFileError:
    begin = time.process_time()
    with pytest.raises(ModelFileError) as caught:
        read_header(path)
    assert time.process_time() - begin < 1
    assert "\n" not in caught.value.message
    assert printable(path) in caught.value.message
    assert caught.value.hint
    return caught.value


def test_missing_file(tmp_path: Path) -> None:
    assert "there is no file" in refused(tmp_path / "none.gguf").message


def test_directory_names_a_file_in_it(tmp_path: Path) -> None:
    (tmp_path / "one.gguf").touch()
    error = refused(tmp_path)
    assert "is a directory" in error.message
    assert str(tmp_path / "one.gguf") in error.hint


def test_no_permission(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def deny(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", deny)  # root, whom CI may run as, may read everything
    assert "no permission" in refused(model).message


def test_failing_disk(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(Path, "open", fail)
    assert "Input/output error" in refused(model).message


def test_paths_that_cannot_be_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.gguf")
    for path in (Path("nul\0.gguf"), tmp_path / "pipe.gguf"):
        assert "cannot open" in refused(path).message


@pytest.mark.parametrize("data", [b"", b"GG", b"<!DOCTYPE html>", b"version https://git-lfs.github.com/spec/v1"])
def test_no_gguf(tmp_path: Path, data: bytes) -> None:
    assert "is no GGUF file" in refused(write(tmp_path / "page.gguf", data)).message


def test_open_gguf_closes_what_it_refuses(tmp_path: Path) -> None:
    # An unclosed file is a ResourceWarning, and warnings are errors here.
    with pytest.raises(ModelFileError):
        open_gguf(write(tmp_path / "no.gguf", b"no"))


@pytest.mark.parametrize("version", [0, 1, 4, 4 << 24])
def test_unknown_versions(tmp_path: Path, version: int) -> None:
    path = write(tmp_path / "version.gguf", b"GGUF" + struct.pack("<IQQ", version, 0, 0))
    assert f"version {version}," in refused(path).message


@pytest.mark.parametrize("version", [2, 3])
def test_a_file_of_the_other_byte_order_is_named_so(tmp_path: Path, version: int) -> None:
    path = write(tmp_path / "big.gguf", b"GGUF" + struct.pack(">IQQ", version, 0, 0))
    assert "byte order (big-endian)" in refused(path).message


# --- damage ---


@settings(deadline=None)
@given(data=st.data())
def test_a_cut_anywhere_is_refused(model: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    whole = model.read_bytes()
    cut = data.draw(st.integers(0, len(whole) - 1))
    refused(write(tmp_path_factory.getbasetemp() / "cut.gguf", whole[:cut]))


def test_cut_tensor_data_names_both_numbers(model: Path, tmp_path: Path) -> None:
    whole = model.read_bytes()
    error = refused(write(tmp_path / "cut.gguf", whole[:-1]))
    assert f"need {len(whole):,} bytes" in error.message
    assert f"has {len(whole) - 1:,}" in error.message


def test_cut_header_names_both_numbers(model: Path, tmp_path: Path) -> None:
    whole = model.read_bytes()
    cut = whole.index(b"cat") + 1
    error = refused(write(tmp_path / "cut.gguf", whole[:cut]))
    assert f"the file has {cut:,}" in error.message
    assert "header" in error.message


@settings(deadline=None)
@given(data=st.data())
def test_changed_bytes_raise_nothing_but_model_file_errors(
    model: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    whole = bytearray(model.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(4, len(whole) - 2 * 8 * 32 * 4))] = data.draw(st.integers(0, 255))
    path = write(tmp_path_factory.getbasetemp() / "changed.gguf", bytes(whole))
    begin = time.process_time()
    try:
        read_header(path)
    except ModelFileError as error:
        assert "\n" not in error.message
    assert time.process_time() - begin < 1


ABSURD = {
    "keys": b"GGUF" + struct.pack("<IQQ", 3, 0, 2**63),
    "tensors": b"GGUF" + struct.pack("<IQQ", 3, 2**63, 0),
    "length of a key": SMALL + U64.pack(2**64 - 1),
    "length of a text": SMALL + text("k") + struct.pack("<IQ", 8, 2**63),
    "strings": SMALL + text("k") + struct.pack("<IIQ", 9, 8, 2**61),
    "numbers": SMALL + text("k") + struct.pack("<IIQ", 9, 4, 2**62),
    "type of a value": SMALL + text("k") + struct.pack("<IQ", 77, 1),
    "array of arrays": SMALL + text("k") + struct.pack("<IIQ", 9, 9, 1),
    "length of one string of many": SMALL + text("k") + struct.pack("<IIQ", 9, 8, 2) + text("a") + U64.pack(2**64 - 8),
    "dimensions": b"GGUF" + struct.pack("<IQQ", 3, 1, 0) + text("t") + struct.pack("<I", 2**31),
    "shape": b"GGUF" + struct.pack("<IQQ", 3, 1, 0) + text("t") + struct.pack("<IQQIQ", 2, 2**63, 2**63, 0, 0),
    "offset": b"GGUF" + struct.pack("<IQQ", 3, 1, 0) + text("t") + struct.pack("<IQIQ", 1, 1, 0, 2**64 - 1),
    "alignment": SMALL + text("general.alignment") + struct.pack("<II", 4, 0),
    "alignment 33": SMALL + text("general.alignment") + struct.pack("<II", 4, 33),
    "five dimensions": b"GGUF"
    + struct.pack("<IQQ", 3, 1, 0)
    + text("t")
    + struct.pack("<I5QIQ", 5, 1, 1, 1, 1, 1, 0, 0),
    "tensor twice": b"GGUF" + struct.pack("<IQQ", 3, 2, 0) + 2 * (text("t") + struct.pack("<IIQ", 0, 0, 0)),
    "key twice": b"GGUF" + struct.pack("<IQQ", 3, 0, 2) + 2 * (text("k") + struct.pack("<II", 4, 0)),
}


@pytest.mark.parametrize("data", ABSURD.values(), ids=ABSURD.keys())
def test_absurd_claims(tmp_path: Path, data: bytes) -> None:
    refused(write(tmp_path / "absurd.gguf", data + bytes(64)))


@pytest.mark.parametrize("kind", [4, 8])
def test_a_huge_file_of_zeros_is_no_long_work(tmp_path: Path, kind: int) -> None:
    path = tmp_path / "sparse.gguf"
    start = SMALL + text("k") + struct.pack("<IIQ", 9, kind, 2**27)
    with path.open("wb") as file:
        file.write(start)
        file.truncate(2**33)  # takes no room on the disk
    assert "134,217,728 elements" in refused(path).message


def test_an_endless_header_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(header, "MAX_HEADER", 100)
    path = write(tmp_path / "long.gguf", SMALL + text("k") + struct.pack("<IQ", 8, 200) + bytes(200))
    assert "no real header takes 100" in refused(path).message
