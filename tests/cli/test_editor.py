"""Typing a message: what the keys do."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from prompt_toolkit.application import create_app_session
from prompt_toolkit.input import create_pipe_input
from prompt_toolkit.output import DummyOutput

from eft_gguf.cli.editor import typed

ALT_ENTER, CTRL_C, CTRL_D, UP = "\x1b\r", "\x03", "\x04", "\x1b[A"


@pytest.fixture
def press() -> Iterator[Callable[[str], list[str]]]:
    """What is read when these keys are pressed, until the chat is left."""

    def keys(text: str) -> list[str]:
        with create_pipe_input() as pipe, create_app_session(input=pipe, output=DummyOutput()):
            pipe.send_text(text + CTRL_D)
            read = typed(["/help", "/knowledge"])
            return list(iter(read, None))

    yield keys


@pytest.mark.parametrize(
    ("keys", "messages"),
    [
        ("Hi\rHo\r", ["Hi", "Ho"]),
        (f"one{ALT_ENTER}two\r", ["one\ntwo"]),
        ("one\\\rtwo\r", ["one\ntwo"]),
        ("\x1b[200~one\ntwo\n\x1b[201~three\r", ["one\ntwo\nthree"]),
        ("\x1b[200~one\rtwo\rthree\x1b[201~\r", ["one\ntwo\nthree"]),
        ("\x1b[200~/quit\rx\x1b[201~\r", ["/quit\nx"]),
        (f"oops{CTRL_C}Hi\r", ["Hi"]),
        (f"Hi\r{CTRL_C}never\r", ["Hi"]),
    ],
)
def test_keys(keys: str, messages: list[str], press: Callable[[str], list[str]]) -> None:
    assert press(keys) == messages


def test_the_history_outlives_the_session(press: Callable[[str], list[str]], state: Path) -> None:
    assert press("Hi\r") == ["Hi"]
    assert press(f"{UP}there\r") == ["Hithere"]
    assert (state / "history").stat().st_mode & 0o777 == 0o600


def test_ctrl_z_suspends(press: Callable[[str], list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    from prompt_toolkit.application import Application

    suspended: list[bool] = []
    monkeypatch.setattr(Application, "suspend_to_background", lambda self, *rest: suspended.append(True))
    assert press("Hi\x1a\r") == ["Hi"] and suspended == [True]


def test_a_history_that_cannot_be_kept(press: Callable[[str], list[str]], state: Path) -> None:
    state.write_text("a file, where a folder is wanted")
    assert press("Hi\rHo\r") == ["Hi", "Ho"]
