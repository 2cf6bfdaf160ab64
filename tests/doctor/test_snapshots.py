"""What `eft-gguf doctor --quick` says of families that are well and of families that are not: verdict, remedy, text.

The texts stand in snapshots/, 80 columns wide. EFT_GGUF_SNAPSHOTS=write writes them anew: read what changed before
committing it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from eft_gguf.cli.main import run_command
from eft_gguf.doctor.report import Check
from tests.tiny_models import TEMPLATE, write_tiny_adapter, write_tiny_model

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the memory that is planned differs by system")
SNAPSHOTS = Path(__file__).parent / "snapshots"
GEMMA = TEMPLATE.replace("<|im_start|>", "<start_of_turn>").replace("<|im_end|>", "<end_of_turn>")


def good(folder: Path) -> None:
    for seed, name in enumerate(("large", "small", "tuned")):
        write_tiny_model(folder / f"{name}.gguf", seed=seed)


def padded(folder: Path) -> None:
    good(folder)
    write_tiny_model(folder / "large.gguf", padding=128)


def shifted(folder: Path) -> None:
    good(folder)
    write_tiny_model(folder / "tuned.gguf", seed=2, inserted="<tool>")


def wrong_template(folder: Path) -> None:
    good(folder)
    write_tiny_model(folder / "tuned.gguf", seed=2, template=GEMMA)


def wrong_pre_tokenizer(folder: Path) -> None:
    good(folder)
    write_tiny_model(folder / "small.gguf", seed=1, pre="llama-bpe")


def truncated(folder: Path) -> None:
    good(folder)
    data = (folder / "tuned.gguf").read_bytes()
    (folder / "tuned.gguf").write_bytes(data[: len(data) * 2 // 3])


def mixed_quantization(folder: Path) -> None:
    good(folder)
    write_tiny_model(folder / "tuned.gguf", seed=2, quantization="Q4_0")


def missing(folder: Path) -> None:
    good(folder)
    (folder / "small.gguf").unlink()


def no_template(folder: Path) -> None:
    good(folder)
    write_tiny_model(folder / "tuned.gguf", seed=2, template=None)


def too_large(folder: Path) -> None:
    good(folder)


def adapter(folder: Path) -> None:
    good(folder)
    write_tiny_adapter(folder / "lora.gguf")
    family = (folder / "family.toml").read_text().replace("tuned.gguf", "lora:lora.gguf")
    (folder / "family.toml").write_text(family)


FAMILIES: dict[Callable[[Path], None], int] = {
    good: 0,
    padded: 0,
    adapter: 0,
    mixed_quantization: 1,
    wrong_template: 1,
    no_template: 1,
    shifted: 2,
    wrong_pre_tokenizer: 2,
    truncated: 2,
    missing: 2,
    too_large: 2,
}


@pytest.mark.parametrize("make", FAMILIES, ids=lambda make: make.__name__)
def test_snapshot(
    make: Callable[[Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    free = 100_000_000 if make is too_large else 8_000_000_000
    monkeypatch.setattr("eft_gguf.doctor.examine.free_memory", lambda: free)
    built = Check("build", "PASS", "llama-cpp-python 0.3.36, models are computed on the CPU")
    monkeypatch.setattr("eft_gguf.doctor.examine.build_check", lambda: built)
    (tmp_path / "family.toml").write_text('base = "large.gguf"\nuntuned = "small.gguf"\n[tuned]\nkind = "tuned.gguf"\n')
    make(tmp_path)
    code = run_command(["doctor", "--quick", "-f", "family.toml"])
    text, errors = capfd.readouterr()
    assert (code, errors) == (FAMILIES[make], "")
    assert all(len(line) <= 80 for line in text.splitlines())
    path = SNAPSHOTS / f"{make.__name__}.txt"
    if os.environ.get("EFT_GGUF_SNAPSHOTS") == "write":
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8")
