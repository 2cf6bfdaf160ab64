"""From what a user writes to a file."""

from __future__ import annotations

from pathlib import Path

import pytest

from eft_gguf.errors import ModelFileError, OptionError
from eft_gguf.models.family import family_from_references
from eft_gguf.models.references import Reference, resolve
from tests.gguf_files import write_adapter, write_model


def test_a_path(tmp_path: Path) -> None:
    path = write_model(tmp_path / "model.gguf")
    assert resolve(path) == Reference(str(path), path)
    assert resolve(str(path)) == Reference(str(path), path)


def test_an_adapter(tmp_path: Path) -> None:
    path = write_adapter(tmp_path / "lora.gguf")
    assert resolve(f"lora:{path}") == Reference(f"lora:{path}", path, adapter=True)


def test_relative_paths_start_where_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_model(tmp_path / "model.gguf")
    assert resolve("model.gguf", relative_to=tmp_path).path == path
    assert resolve("lora:model.gguf", relative_to=tmp_path).path == path
    assert resolve(path, relative_to=Path("/elsewhere")).path == path
    monkeypatch.chdir(tmp_path)
    assert resolve("model.gguf").path == Path("model.gguf")


def test_home_expands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_model(tmp_path / "model.gguf")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert resolve("~/model.gguf").path == path
    assert resolve("lora:~/model.gguf").path == path
    with pytest.raises(ModelFileError, match="no file"):
        resolve("~nobody-of-this-name/model.gguf")


def test_the_scale_of_an_adapter(tmp_path: Path) -> None:
    path = write_adapter(tmp_path / "lora.gguf")
    assert resolve(f"lora:{path}@0.5") == Reference(f"lora:{path}@0.5", path, adapter=True, scale=0.5)
    with pytest.raises(OptionError, match="the scale of"):
        resolve(f"lora:{path}@nan")
    named = write_adapter(tmp_path / "lora.gguf@0.5")
    assert resolve(f"lora:{named}") == Reference(f"lora:{named}", named, adapter=True)


def test_a_file_wins_over_a_scheme(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_model(tmp_path / "hf:model.gguf")
    monkeypatch.chdir(tmp_path)
    assert resolve("hf:model.gguf").path == Path("hf:model.gguf")


@pytest.mark.parametrize("text", ["", " ", "lora:"])
def test_empty_references(text: str) -> None:
    with pytest.raises(OptionError, match="empty"):
        resolve(text)


def test_what_is_no_model_file(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("notes")
    for name, words in [
        ("none.gguf", "there is no file"),
        ("", "is a directory"),
        ("notes.txt", "is no GGUF"),
    ]:
        with pytest.raises(ModelFileError, match=words):
            resolve(tmp_path / name)


def test_all_files_that_are_missing_are_named(tmp_path: Path) -> None:
    names = [str(tmp_path / name) for name in ("a.gguf", "b.gguf", "c.gguf")]
    with pytest.raises(ModelFileError, match=r"no files .*a\.gguf, .*b\.gguf and .*c\.gguf"):
        family_from_references(names[0], names[1], [f"x={names[2]}:0.5"])
    with pytest.raises(ModelFileError, match=r"no files .*b\.gguf and .*c\.gguf"):
        family_from_references(write_model(tmp_path / "a.gguf"), names[1], f"lora:{names[2]}@0.5")
    with pytest.raises(ModelFileError, match=r"there is no file .*b\.gguf"):
        family_from_references(write_model(tmp_path / "a.gguf"), names[1], str(write_model(tmp_path / "c.gguf")))
