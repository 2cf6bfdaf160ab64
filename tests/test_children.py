"""Processes of our own import nothing of the folder that the user is in."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import eft_gguf
from eft_gguf.children import how_it_ended, module_command
from eft_gguf.engine.quantizer import quantize
from tests.tiny_models import write_tiny_model

NAMES = ("queue", "ctypes", "json", "runpy", "numpy", "eft_gguf", "sitecustomize")


@pytest.fixture
def trapped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current folder with modules that say that they were imported; returns where."""
    folder = tmp_path / "downloaded"
    folder.mkdir()
    for name in NAMES:
        (folder / f"{name}.py").write_text(f"open({str(tmp_path / 'imported')!r}, 'a').write({name!r})\n")
    monkeypatch.chdir(folder)
    return tmp_path / "imported"


def test_the_trap_works(trapped: Path) -> None:
    subprocess.run([sys.executable, "-m", "queue"], check=True)
    assert trapped.exists()


@pytest.mark.parametrize("safe_path", ["", "1"])
def test_a_module_is_run_without_the_current_folder(
    trapped: Path, monkeypatch: pytest.MonkeyPatch, safe_path: str
) -> None:
    monkeypatch.setenv("PYTHONSAFEPATH", safe_path)
    done = subprocess.run(module_command("base64", "-t"), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Aladdin:open sesame" in done.stdout
    assert not trapped.exists()


def test_quantizing_imports_nothing_of_the_current_folder(trapped: Path, tmp_path: Path) -> None:
    model = write_tiny_model(tmp_path / "model.gguf")
    quantize(model, tmp_path / "made.gguf", "F16", progress=lambda what, done: None)
    assert (tmp_path / "made.gguf").exists()
    assert not trapped.exists()


def test_no_process_is_started_in_another_way() -> None:
    """The engine of the server and all others go by `module_command`."""
    package = Path(eft_gguf.__file__).parent
    starts = [
        path.name
        for folder in (package, package.parent / "convert")
        for path in folder.rglob("*.py")
        if re.search(r"sys\.executable", path.read_text(encoding="utf-8"))
    ]
    assert starts == ["children.py"]


def test_ends_in_words() -> None:
    assert how_it_ended(-signal.SIGABRT) == "was ended by SIGABRT"
    assert how_it_ended(3) == "ended with code 3"
