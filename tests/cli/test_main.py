"""The entry point: what --help costs, and how errors come out."""

import importlib
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import click
import pytest

from eft_gguf.cli.evaluate import EVALUATIONS, evaluate
from eft_gguf.cli.main import COMMANDS, cli

EFT_GGUF = str(Path(sys.executable).with_name("eft-gguf"))


def test_help_imports_nothing_heavy() -> None:
    program = "import sys; from eft_gguf.cli.main import run_command; run_command(['--help']); print(*sys.modules)"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    loaded = {name.partition(".")[0] for name in result.stdout.splitlines()[-1].split()}
    assert not loaded & {"numba", "llama_cpp", "numpy", "rich", "prompt_toolkit", "gguf", "jinja2"}


def test_help_is_quick() -> None:
    # The aim is 0.15 s on a quiet machine. Those that run tests are busy: processor time, the best of several.
    def seconds() -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([EFT_GGUF, "--help"], check=True, capture_output=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    assert min(seconds() for _ in range(5)) < 0.25


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_with_the_same_summary(name: str, command: Callable) -> None:
    found = cli.get_command(click.Context(cli), name)
    assert found is not None and found.short_help == COMMANDS[name]
    outcome = command(name, "--help")
    assert outcome.code == 0 and f"Usage: eft-gguf {name}" in outcome.out


@pytest.mark.parametrize("name", EVALUATIONS)
def test_every_evaluation_has_help_with_the_same_summary(name: str, command: Callable) -> None:
    found = evaluate.get_command(click.Context(evaluate), name)
    assert found is not None and found.short_help == EVALUATIONS[name]
    outcome = command("evaluate", name, "--help")
    assert outcome.code == 0 and f"Usage: eft-gguf evaluate {name}" in outcome.out


@pytest.mark.parametrize(
    ("arguments", "message", "hint"),
    [
        (["frobnicate"], "No such command 'frobnicate'", "see: eft-gguf --help"),
        (["run"], "Missing argument 'PROMPT'", "see: eft-gguf run --help"),
        (["run", "Hi", "--temprature", "1"], "No such option", "see: eft-gguf run --help"),
        (["run", "Hi", "--knowledge", "much"], "'much' is not a valid float", "see: eft-gguf run --help"),
        (["run", "Hi", "--trait", "cautious"], "'cautious' is not of the form NAME=WEIGHT", "see: "),
        (["run", "Hi", "--trait", "cautious=lots"], "'cautious=lots' is not of the form NAME=WEIGHT", "see: "),
        (["run", "Hi", "-f", "a", "--base", "b"], "--family and --base exclude each other", "see: "),
        (["run", "Hi", "--base", "b"], "missing: --untuned and --tuned", "see: eft-gguf run --help"),
        (["run", "Hi", "--raw", "--system", "Be brief."], "--raw and --system exclude each other", "see: "),
    ],
)
def test_wrong_usage(arguments: list[str], message: str, hint: str, command: Callable) -> None:
    outcome = command(*arguments)
    assert outcome.code == 2
    assert outcome.out == ""
    first, second = outcome.err.splitlines()
    assert first.startswith("error: ") and message in first
    assert second.startswith(hint)


def test_version(command: Callable) -> None:
    assert command("--version").out.startswith("eft-gguf, version ")


def test_other_exceptions_keep_their_traceback(command: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    module = importlib.import_module("eft_gguf.cli.run")
    monkeypatch.setattr(module, "open_models", lambda models: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        command("run", "Hi")


def test_ctrl_c_outside_a_reply_is_quiet(command: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(models: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(importlib.import_module("eft_gguf.cli.run"), "open_models", interrupted)
    outcome = command("run", "Hi")
    assert (outcome.code, outcome.out, outcome.err.strip()) == (130, "", "")
