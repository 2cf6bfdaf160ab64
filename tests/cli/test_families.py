"""eft-gguf families: the list, one of them, adding, fetching; and their names behind -f."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from eft_gguf.cli.families import SUMMARIES, families
from tests.conftest import TinyFiles
from tests.gguf_files import write_model


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home with nothing in it."""
    for name in ("HF_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "XDG_CACHE_HOME", "OLLAMA_MODELS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("eft_gguf.models.ollama.SERVICE", ())
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.mark.parametrize("name", SUMMARIES)
def test_every_command_has_help_with_the_same_summary(name: str, command: Callable) -> None:
    found = families.get_command(None, name)
    assert found is not None and found.short_help == SUMMARIES[name]
    assert f"Usage: eft-gguf families {name}" in command("families", name, "--help").out


def test_the_list(command: Callable) -> None:
    outcome = command("families")
    lines = outcome.out.splitlines()
    assert outcome.code == 0 and outcome.out == command("families", "list").out
    assert lines[0].split() == ["name", "here", "all", "files", "base", "with", "tuned"]
    assert lines[1].startswith("bundled        all ")
    assert "qwen2.5        0 of 3  8.2 GB     Qwen2.5 7B with 1.5B Instruct" in lines
    assert all(len(line) <= 80 for line in lines)
    records = json.loads(command("families", "--json").out)
    assert records[0]["name"] == "bundled" and records[0]["ready"]
    assert records == json.loads(command("families", "list", "--json").out)


def test_added_listed_shown_and_used(command: Callable, tiny: TinyFiles, state: Path) -> None:
    named = ["--base", str(tiny.base), "--untuned", str(tiny.untuned), "--tuned", f"kind={tiny.tuned}:0.5"]
    outcome = command("families", "add", "mine", *named, "--about", "my own", "--ctx", "128")
    assert outcome.code == 0, outcome.err
    assert outcome.out.splitlines()[0] == f"written: {state / 'families' / 'mine.toml'}"
    assert "mine           all                my own" in command("families").out
    shown = command("families", "show", "mine").out
    assert shown.startswith("mine: my own\n\n  base: ") and str(tiny.tuned) in shown
    record = json.loads(command("run", "-f", "mine", "a", "--json", "--max-tokens", "2").out)
    assert record["dials"]["traits"] == {"kind": 0.5}
    again = command("families", "add", "mine", *named)
    assert again.code == 2 and "is there already" in again.err
    assert command("families", "add", "mine", *named, "--replace").code == 0


def test_what_add_refuses(command: Callable, tiny: TinyFiles, tmp_path: Path, state: Path) -> None:
    wrong = write_model(tmp_path / "wrong.gguf")
    named = ["--base", str(wrong), "--untuned", str(tiny.untuned), "--tuned", str(tiny.tuned)]
    outcome = command("families", "add", "mine", *named)
    assert outcome.code == 2 and "different vocabularies" in outcome.err
    assert command("families", "add", "bundled", *named).code == 2
    assert "Missing option '--tuned'" in command("families", "add", "x", *named[:4]).err
    assert "cannot read" in command("families", "add", "x", *named, "--bases-template", "/nowhere").err
    assert not (state / "families").exists()


def test_a_wrong_file_does_not_spoil_the_list(command: Callable, state: Path) -> None:
    (state / "families").mkdir(parents=True)
    (state / "families" / "wrong.toml").write_text('base = 3\nuntuned = "b"\n[tuned]\nt = "c"\n')
    outcome = command("families")
    assert outcome.code == 0 and "the key 'base' is 3" in outcome.out and "qwen3" in outcome.out


def test_a_preset_that_is_not_here(command: Callable) -> None:
    for arguments in (["run", "hi", "-f", "qwen3"], ["inspect", "hi", "-f", "qwen3", "--offline"]):
        outcome = command(*arguments)
        assert outcome.code == 2
        assert outcome.err.splitlines()[1] == "fetch them (all files: about 8.7 GB): eft-gguf families fetch qwen3"
    outcome = command("families", "show", "qwen3")
    assert "  base: not here\n    hf:mradermacher/Qwen3-8B-Base-GGUF/" in outcome.out
    assert "Why they share a vocabulary" in outcome.out and "How this was checked" in outcome.out


def test_fetching(command: Callable, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = pytest.importorskip("huggingface_hub")
    asked = []

    def download(repository: str, name: str) -> str:
        asked.append(f"{repository}/{name}")
        owner, repo = repository.split("/")
        path = home / f".cache/huggingface/hub/models--{owner}--{repo}/snapshots/abc/{name}"
        path.parent.mkdir(parents=True)
        return str(write_model(path))

    monkeypatch.setattr(hub, "hf_hub_download", download)
    refused = command("families", "fetch", "qwen3")
    assert refused.code == 2 and "HF_HUB_OFFLINE is set" in refused.err and not asked
    monkeypatch.delenv("HF_HUB_OFFLINE")
    outcome = command("families", "fetch", "qwen3")
    assert outcome.code == 0, outcome.err
    assert asked[0] == "mradermacher/Qwen3-8B-Base-GGUF/Qwen3-8B-Base.Q4_K_M.gguf" and len(asked) == 3
    assert "base: fetching hf:" in outcome.err and "check them: eft-gguf doctor -f qwen3" in outcome.out
    assert command("families", "fetch", "qwen3").code == 0 and len(asked) == 3
    assert "qwen3          all     8.7 GB" in command("families").out
    own = tmp_path / "own.toml"
    own.write_text('base = "gone.gguf"\nuntuned = "b.gguf"\n[tuned]\nt = "c.gguf"\n')
    outcome = command("families", "fetch", str(own))
    assert outcome.code == 2 and "cannot be fetched" in outcome.err
