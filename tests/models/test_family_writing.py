"""What is written is what was named, and is read again as such."""

from __future__ import annotations

from pathlib import Path

import pytest

from eft_gguf.errors import CompatibilityError, OptionError
from eft_gguf.models.family import load_family
from eft_gguf.models.family_writing import (
    Entry,
    TraitEntry,
    absolute,
    check_models,
    family_text,
    traits_of,
    write_family,
)
from tests.gguf_files import TOKENS, write_adapter, write_model


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("large", "small", "helpful", "other"):
        write_model(tmp_path / f"{name}.gguf")
    write_adapter(tmp_path / "lora.gguf")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_every_option_is_written_and_read(folder: Path) -> None:
    traits = traits_of(["kind=helpful.gguf:0.25", "terse=lora:lora.gguf@0.5"], ["terse=other.gguf"])
    template = 'a "quoted"\n\\ {{ messages }}\x7f'
    entry = Entry("my own", "large.gguf", "small.gguf", traits, ctx=512, bases_template=template, about="Täst")
    (folder / "sub").mkdir()
    path = folder / "sub" / "mine.toml"
    text = family_text(entry)
    assert check_models(text, path) == []
    write_family(path, text, replace=False)
    family = load_family(path)
    assert (family.name, family.ctx, family.bases_template) == ("my own", 512, template)
    kind, terse = family.tuned
    assert (kind.name, kind.model.path, kind.weight, kind.untuned) == ("kind", folder / "helpful.gguf", 0.25, None)
    assert (terse.model.path, terse.model.adapter, terse.model.scale) == (folder / "lora.gguf", True, 0.5)
    assert terse.untuned is not None and terse.untuned.path == folder / "other.gguf"


def test_names_in_stores_are_kept_and_paths_made_absolute(folder: Path) -> None:
    assert absolute("hf:owner/repo:Q8_0") == "hf:owner/repo:Q8_0"
    assert absolute("lora:ollama:tiny") == "lora:ollama:tiny"
    assert absolute("lora:lora.gguf@0.5") == f"lora:{folder}/lora.gguf@0.5"
    assert absolute("~/x.gguf") == str(Path("~/x.gguf").expanduser())


def test_models_that_are_not_here_are_not_compared(folder: Path) -> None:
    entry = Entry("far", "hf:owner/repo:Q4_K_M", "small.gguf", (TraitEntry("tuned", "helpful.gguf"),))
    assert check_models(family_text(entry), folder / "far.toml") == []


def test_models_that_may_not_be_blended_are_refused(folder: Path) -> None:
    write_model(folder / "shifted.gguf", tokens=["x", *TOKENS[1:]])
    entry = Entry("bad", "shifted.gguf", "small.gguf", (TraitEntry("tuned", "helpful.gguf"),))
    with pytest.raises(CompatibilityError, match="different vocabularies"):
        check_models(family_text(entry), folder / "bad.toml")


def test_wrong_traits_are_named(folder: Path) -> None:
    for tuned, own, message in (
        (["a.gguf", "b.gguf"], [], "has no trait name"),
        (["base=a.gguf"], [], "'base' cannot name a trait"),
        (["kind=helpful.gguf:-1"], [], "the weight of trait kind is -1"),
        (["kind=helpful.gguf"], ["other=x.gguf"], "names 'other', no trait"),
        (["kind=helpful.gguf"], ["x.gguf"], "not of the form TRAIT=REF"),
    ):
        with pytest.raises(OptionError, match=message):
            traits_of(tuned, own)
    entry = Entry("bad", "large.gguf", "small.gguf", (TraitEntry("t", "helpful.gguf"),), ctx=0)
    with pytest.raises(OptionError, match="ctx of family bad is 0"):
        check_models(family_text(entry), folder / "bad.toml")


def test_a_file_is_not_overwritten_unasked(folder: Path) -> None:
    path = folder / "new" / "mine.toml"
    write_family(path, "one", replace=False)
    with pytest.raises(OptionError, match="is there already"):
        write_family(path, "two", replace=False)
    write_family(path, "two", replace=True)
    assert path.read_text() == "two"
