"""The presets that ship, and families by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from eft_gguf.errors import ModelFileError, OptionError
from eft_gguf.models import presets
from eft_gguf.models.family import list_family, load_family
from eft_gguf.models.presets import PRESETS, check_name, families_folder, file_of, names
from eft_gguf.models.repository import parse
from tests.gguf_files import write_model

SHIPPED = sorted(path.stem for path in PRESETS.glob("*.toml"))


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home with nothing in it."""
    for name in ("HF_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "XDG_CACHE_HOME", "OLLAMA_MODELS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("eft_gguf.models.ollama.SERVICE", ())
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("EFT_GGUF_HOME", str(tmp_path / "state"))
    return tmp_path


def own(name: str, text: str) -> Path:
    families_folder().mkdir(parents=True, exist_ok=True)
    path = families_folder() / f"{name}.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_the_papers_families_and_todays_are_there() -> None:
    series = ("llama", "llama-2", "falcon", "llama-3", "qwen2.5", "qwen2.5-coder", "qwen3", "gemma-3", "smollm2")
    assert {*series, "mistral", "olmo-2", "granite-4"} <= set(SHIPPED)


@pytest.mark.parametrize("name", SHIPPED)
def test_every_preset_is_whole(name: str) -> None:
    """Each says what it is, why its models go together, and how that was checked; each reference has a known form."""
    preset = list_family(name)
    assert preset.is_preset and preset.path == file_of(name)
    assert len(preset.about) <= 45 and preset.vocabulary and preset.checked
    assert preset.gigabytes and preset.gigabytes > 1
    assert {"base", "untuned"} < set(preset.members)
    for references in preset.members.values():
        assert references[0].startswith("hf:")  # the first is what is fetched
        parse(references[0].removeprefix("hf:"), "hf:")
        assert all(text.startswith(("hf:", "ollama:")) for text in references)
    assert not any(preset.found().values())


def test_a_preset_that_is_not_here_says_what_to_fetch() -> None:
    with pytest.raises(ModelFileError, match="3 of the 3 models of qwen3 are not on this disk: base is hf:") as caught:
        load_family("qwen3")
    assert caught.value.hint == "fetch them (all files: about 8.7 GB): eft-gguf families fetch qwen3"


def test_a_preset_takes_what_other_programs_have(home: Path) -> None:
    """Hugging Face's files in LM Studio's folder and in Ollama's store, and Ollama's own models."""
    preset = list_family("llama-3")
    lm_studio = home / ".lmstudio/models/QuantFactory/Meta-Llama-3.1-8B-GGUF/Meta-Llama-3.1-8B.Q4_K_M.gguf"
    lm_studio.parent.mkdir(parents=True)
    write_model(lm_studio)
    store = home / ".ollama/models"
    for manifest in (
        "hf.co/bartowski/Llama-3.2-1B-Instruct-GGUF/Q8_0",
        "registry.ollama.ai/library/llama3.2/1b-text-q8_0",
    ):
        blob = store / "blobs" / ("sha256-" + "a" * 64)
        blob.parent.mkdir(parents=True, exist_ok=True)
        write_model(blob)
        path = store / "manifests" / manifest
        path.parent.mkdir(parents=True)
        layer = f'{{"mediaType": "application/vnd.ollama.image.model", "digest": "sha256:{"a" * 64}"}}'
        path.write_text(f'{{"layers": [{layer}]}}')
    assert preset.found() == {"base": lm_studio, "untuned": blob, "instruct": blob}
    family = load_family("llama-3")
    assert (family.name, family.base.path, family.untuned.text) == (
        "llama-3",
        lm_studio,
        "ollama:llama3.2:1b-text-q8_0",
    )


def test_the_users_own_come_first(home: Path) -> None:
    for name in ("a", "b", "c"):
        write_model(home / f"{name}.gguf")
    text = f'about = "mine"\nbase = "{home}/a.gguf"\nuntuned = "{home}/b.gguf"\n[tuned]\nt = "{home}/c.gguf"\n'
    own("mine", text)
    own("qwen3", text)
    assert names()[:3] == ["mine", "qwen3", SHIPPED[0]] and names().count("qwen3") == 1
    assert load_family("mine").base.path == home / "a.gguf"
    assert list_family("qwen3").about == "mine"


def test_alternatives_in_a_family_file(home: Path) -> None:
    write_model(home / "here.gguf")
    path = own("two", 'base = ["gone.gguf", "../../here.gguf"]\nuntuned = "a.gguf"\n[tuned]\nt = "b.gguf"\n')
    found = list_family("two")
    assert found.found()["base"] == path.parent / "../../here.gguf"
    assert found.found()["untuned"] is None
    with pytest.raises(ModelFileError, match=r"untuned: there is no file|untuned: .*a\.gguf"):
        load_family("two")


def test_names_that_are_none() -> None:
    assert file_of("../qwen3") is None and file_of("nonsense") is None
    for name in ("bundled", "a/b", "", "../x", ".hidden"):
        with pytest.raises(OptionError, match="cannot name a family"):
            check_name(name)
    with pytest.raises(OptionError, match="there is no family nonsense") as caught:
        load_family("nonsense")
    assert "bundled, falcon" in caught.value.hint


def test_wrong_descriptions_are_named_by_key() -> None:
    for line, message in (("about = 3", "the key 'about' is 3"), ('gigabytes = "8"', "the key 'gigabytes' is '8'")):
        own("wrong", f'{line}\nbase = "a"\nuntuned = "b"\n[tuned]\nt = "c"\n')
        with pytest.raises(OptionError, match=message):
            list_family("wrong")
    assert presets.file_of("wrong") is not None
