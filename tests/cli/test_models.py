"""The commands on models that really run: random ones, whose answers mean nothing."""

import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from eft_gguf.cli.session import Session
from tests.conftest import TinyFiles

EFT_GGUF = str(Path(sys.executable).with_name("eft-gguf"))


@pytest.fixture
def references(tiny: TinyFiles) -> list[str]:
    return ["--base", str(tiny.base), "--untuned", str(tiny.untuned), "--tuned", str(tiny.tuned), "--threads", "1"]


def test_one_seed_one_answer(command: Callable, references: list[str]) -> None:
    arguments = ["run", "Hello", "--json", "--seed", "3", "--max-tokens", "8", *references]
    first, second = (json.loads(command(*arguments).out) for _ in range(2))
    assert first["text"] == second["text"]
    assert first["members"] == ["base", "untuned", "tuned"]


def test_corners_are_the_models_alone(command: Callable, tiny: TinyFiles, references: list[str]) -> None:
    def text(*arguments: str) -> str:
        greedy = ["--json", "--raw", "--temperature", "0", "--max-tokens", "8", "--threads", "1"]
        return json.loads(command("run", "Hello", *greedy, *arguments).out)["text"]

    def alone(path: Path) -> str:
        return text("--base", str(path), "--untuned", str(path), "--tuned", str(path))

    assert text(*references, "--behaviour", "0") == alone(tiny.base)
    assert text(*references, "--knowledge", "0") == alone(tiny.tuned)
    assert text(*references, "--knowledge", "0", "--behaviour", "0") == alone(tiny.untuned)


def test_the_next_message_decodes_only_what_is_new(command: Callable, references: list[str]) -> None:
    outcome = command("chat", "--stats", "--max-tokens", "4", *references, stdin="Hello\nAgain\n")
    assert outcome.code == 0
    assert " 0 cached" in outcome.err.splitlines()[0]
    assert any(" cached" in line and " 0 cached" not in line for line in outcome.err.splitlines()[1:])


def test_continue_opens_the_same_models_from_another_folder(
    command: Callable, tiny: TinyFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tiny.base.parent)
    named = ["--base", "base.gguf", "--untuned", "untuned.gguf"]
    traits = ["--tuned", "kind=tuned.gguf:0.5", "--tuned", "rare=lora:adapter.gguf"]
    options = ["--threads", "1", "--max-tokens", "4", "--stats"]
    assert command("chat", *named, *traits, *options, stdin="Hello").code == 0
    monkeypatch.chdir(tmp_path)
    outcome = command("chat", "--continue", *options, stdin="/trait\nAgain")
    assert outcome.code == 0, outcome.err
    assert "traits: kind 0.5, rare 1" in outcome.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--base", "{folder}/nothing.gguf"], "nothing.gguf"),
        (["--base", "{folder}"], "{folder}"),
        (["--base", "{folder}/text.gguf"], "text.gguf"),
        (["--base", "{folder}/cut.gguf"], "cut.gguf"),
        (["--base", "hf:owner/repo/file.gguf"], "hf:"),
        (["--trait", "brave=1"], "brave"),
        (["--ctx", "100000"], "100000"),
        (["--ctx", "0"], "ctx"),
        (["--ctx", "16"], "16"),
        (["--device", "CUDA7"], "there is no device 'CUDA7'; llama.cpp has here:"),
        (["--device", "large=CPU"], "large"),
        (["--kv-type", "q8_0"], "q8_0 packs 32 numbers together"),
        (["--kv-type", "q8_0", "--flash-attn", "off"], "q8_0 needs flash attention"),
        (["--flash-attn", "maybe"], "flash_attn is 'maybe'"),
        (["--threads", "100000"], "threads must be 512 or less"),
    ],
)
def test_bad_input(
    arguments: list[str], message: str, command: Callable, tiny: TinyFiles, references: list[str], tmp_path: Path
) -> None:
    (tmp_path / "text.gguf").write_text("Once upon a time")
    (tmp_path / "cut.gguf").write_bytes(tiny.base.read_bytes()[:-5000])
    given = [argument.format(folder=tmp_path) for argument in arguments]
    outcome = command("run", "Hello, how are you today?", *references, *given)
    assert outcome.code == 2 and outcome.out == ""
    first = outcome.err.splitlines()[0]
    assert first.startswith("error: ")
    assert message.format(folder=tmp_path) in first.replace(",", "")


def test_a_batch_larger_than_the_context_takes_no_memory(command: Callable, references: list[str]) -> None:
    outcome = command("run", "Hello", "--max-tokens", "2", "--batch", "2000000000", *references)
    assert outcome.code == 0, outcome.err


def test_models_of_different_vocabularies(command: Callable, tiny: TinyFiles, tmp_path: Path) -> None:
    other = tmp_path / "other.gguf"
    other.write_bytes(tiny.base.read_bytes().replace(b"<|im_end|>", b"<|im_halt>"))
    outcome = command("run", "Hi", "--base", str(other), "--untuned", str(tiny.untuned), "--tuned", str(tiny.tuned))
    assert outcome.code == 2
    assert "<|im_halt>" in outcome.err and "<|im_end|>" in outcome.err


def test_a_reader_that_leaves_is_no_error(references: list[str]) -> None:
    with subprocess.Popen(
        [EFT_GGUF, "run", "Hello", "--max-tokens", "100", *references],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout and process.stderr
        process.stdout.close()
        assert process.wait(timeout=120) != 0
        assert process.stderr.read() == ""


def test_killed_in_mid_reply(references: list[str], state: Path) -> None:
    """kill -9 while the reply streams: everything that was shown is there again."""
    with subprocess.Popen(
        [EFT_GGUF, "chat", "--seed", "1", *references], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdin and process.stdout
        process.stdin.write(b"Hello\n")
        process.stdin.flush()
        shown = process.stdout.read(20)
        process.send_signal(signal.SIGKILL)
    session = Session.last()
    session.close()
    question, reply = session.conversation.messages
    assert question == {"role": "user", "content": "Hello"}
    assert reply["content"].encode().startswith(shown)


def test_in_a_terminal(references: list[str]) -> None:
    """Loading and figures are told where standard error is a terminal, and leave standard output alone."""
    try:
        terminal, end = pty.openpty()
    except OSError as error:  # some containers have none
        pytest.skip(f"no pseudo-terminal: {error}")
    with open(terminal, "rb", buffering=0, closefd=True) as shown:
        result = subprocess.run(
            [EFT_GGUF, "run", "Hello", "--max-tokens", "4", *references], stdout=subprocess.PIPE, stderr=end, text=True
        )
        os.close(end)
        text = shown.read(100_000).decode()
    assert result.returncode == 0
    assert "4 tokens at" in text and "ms per token: base" in text
    assert "tokens at" not in result.stdout


def test_all_missing_files_are_named_at_once(command: Callable) -> None:
    outcome = command("run", "Hi", "--base", "a.gguf", "--untuned", "b.gguf", "--tuned", "lora:c.gguf")
    assert outcome.code == 2 and outcome.err.startswith("error: there are no files a.gguf, b.gguf and lora:c.gguf")
