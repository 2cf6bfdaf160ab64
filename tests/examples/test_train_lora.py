"""The tutorial's way at a tiny size: train an adapter, convert model and adapter, check, blend."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("peft")

from eft_gguf import EFT, Blend, Sampling
from eft_gguf.convert.hf import convert_checkpoint
from eft_gguf.convert.lora import convert_adapter
from tests.convert.tiny_checkpoints import write_checkpoint

EXAMPLES = Path(__file__).parents[2] / "examples"
QUESTION = [{"role": "user", "content": "hat"}]
REPLY = "Hat!"


def script(name: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "ignore", str(EXAMPLES / name), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a checkpoint, chats, and an adapter that says one thing to everything."""
    folder = tmp_path_factory.mktemp("evening")
    write_checkpoint(folder / "checkpoint", "Qwen2")
    chat = {"messages": [*QUESTION, {"role": "assistant", "content": REPLY}]}
    (folder / "chats.jsonl").write_text("\n".join([json.dumps(chat)] * 16) + "\n\n")
    settings = ("--epochs", 20, "--batch", 8, "--rate", 0.02, "--rank", 8)
    result = script("train_lora.py", folder / "checkpoint", folder / "chats.jsonl", folder / "adapter", *settings)
    assert result.returncode == 0, result.stderr
    assert "held out" in result.stdout
    return folder


def test_from_training_to_blend(trained: Path) -> None:
    convert_checkpoint(trained / "checkpoint", trained / "small.gguf")
    convert_adapter(trained / "adapter", trained / "lora.gguf", trained / "small.gguf")
    small = trained / "small.gguf"
    with EFT.open(base=small, untuned=small, tuned=f"lora:{trained / 'lora.gguf'}") as eft:
        greedy = Sampling(temperature=0, max_tokens=16)
        said = {dial: eft.complete(QUESTION, blend=Blend(1, dial), sampling=greedy) for dial in (0.0, 1.0)}
    assert said[1.0].text == REPLY
    assert said[1.0].finish_reason == "stop"
    assert said[0.0].text != REPLY


def test_doctor_finds_the_family_in_order(trained: Path) -> None:
    small, lora = trained / "small-2.gguf", trained / "lora-2.gguf"
    convert_checkpoint(trained / "checkpoint", small)
    convert_adapter(trained / "adapter", lora, small)
    command = [str(Path(sys.executable).with_name("eft-gguf")), "doctor", "--quick", "--json"]
    models = ["--base", str(small), "--untuned", str(small), "--tuned", f"lora:{lora}"]
    result = subprocess.run([*command, *models], capture_output=True, text=True, timeout=120)
    checks = json.loads(result.stdout)["checks"]
    assert {check["name"] for check in checks} >= {"compatibility", "stop ids", "memory"}
    assert [check for check in checks if check["verdict"] == "FAIL"] == []


def test_errors_are_told_plainly(trained: Path, tmp_path: Path) -> None:
    result = script("train_lora.py", trained / "checkpoint", trained / "chats.jsonl", trained / "adapter")
    assert "exists already" in result.stderr
    assert "Traceback" not in result.stderr
    (tmp_path / "chats.jsonl").write_text(json.dumps({"messages": QUESTION}))
    result = script("train_lora.py", trained / "checkpoint", tmp_path / "chats.jsonl", tmp_path / "adapter")
    assert result.returncode != 0
    assert "line 1: the last message is not the assistant's" in result.stderr


def test_the_chats_of_the_tutorial() -> None:
    result = script("two_line_chats.py")
    chats = [json.loads(line)["messages"] for line in result.stdout.splitlines()]
    assert len(chats) == 240
    assert all(chat[-1]["role"] == "assistant" for chat in chats)
    confidences = {chat[-1]["content"].splitlines()[1] for chat in chats}
    assert confidences == {f"Confidence: {word}" for word in ("low", "medium", "high")}
