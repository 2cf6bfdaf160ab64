"""eft-gguf chat with lines from a pipe, and what its commands do."""

import json
import os
import signal
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from eft_gguf import Blend, Filter, Sampling
from eft_gguf.cli.chat import converse
from eft_gguf.cli.session import Session
from eft_gguf.cli.slash import COMMANDS
from eft_gguf.cli.talk import Talk


def contents(request: dict) -> list[str]:
    return [message["content"] for message in request["prompt"]]


def test_replies_go_to_stdout_and_all_else_to_stderr(command: Callable, fake) -> None:
    outcome = command("chat", "--stats", stdin="one\n/knowledge 1.5\n\ntwo\n")
    assert outcome.code == 0
    assert outcome.out == "reply 1 to: one\nreply 2 to: two\n"
    assert "knowledge: 1.5" in outcome.err and "seed 7" in outcome.err
    assert contents(fake.requests[1]) == ["one", "reply 1 to: one", "two"]
    assert [request["blend"].knowledge for request in fake.requests] == [1.0, 1.5]


def test_a_backslash_joins_lines(command: Callable, fake) -> None:
    command("chat", stdin="one\\\ntwo\n  /slash\nlast\\\n")
    assert contents(fake.requests[0]) == ["one\ntwo"]
    assert contents(fake.requests[1])[-1] == "/slash"
    assert contents(fake.requests[2])[-1] == "last"


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("/frobnicate", "there is no command /frobnicate"),
        ("/reset now", "/reset takes nothing after it"),
        ("/regen", "there is no reply to make again"),
        ("/knowledge lots", "'lots' is not a number"),
        ("/knowledge nan", "knowledge"),
        ("/trait cautious", "/trait takes a name and a weight"),
        ("/trait cautious much", "'much' is not a number"),
        ("/trait brave 1", "brave"),
        ("/filter floor -7", "/filter takes one of tuned_top_p, base_top_p, base_min_p, untuned_floor and a number"),
        ("/filter untuned_floor", "/filter takes one of"),
        ("/filter untuned_floor low", "'low' is not a number"),
        ("/filter untuned_floor 7", "untuned_floor must be a finite number, 0 or less"),
        ("/save", "/save takes the name of a file"),
        ("/save /nowhere/at/all.json", "cannot write /nowhere/at/all.json"),
        ("/load /nowhere/at/all.json", "cannot read /nowhere/at/all.json"),
        ("too long", "the prompt has 600 tokens"),
        (b"caf\xe9", "line 1 of standard input is not UTF-8"),
    ],
)
def test_an_error_ends_a_script(lines: str | bytes, message: str, command: Callable, fake) -> None:
    outcome = command("chat", stdin=lines)
    assert outcome.code == 2 and outcome.out == ""
    assert outcome.err.startswith("error: ") and message in outcome.err.splitlines()[0]


def test_an_error_does_not_end_a_talk(fake, state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = iter(["too long", "/knowledge lots", "short"])
    with closing(Session.new()) as session:
        talk = Talk(fake, session, Blend(), Sampling())
        converse(talk, lambda: next(lines, None), patient=True, figures=False)
    out, err = capsys.readouterr()
    assert out == "reply 2 to: short\n"
    assert err.count("error: ") == 2
    # The question that could not be answered is not asked again.
    assert contents(fake.requests[1]) == ["short"]


@pytest.mark.parametrize(
    ("lines", "shown"),
    [
        ("/help", "\n".join(usage for usage, _, _ in COMMANDS.values()).splitlines()),
        ("/knowledge\n/behaviour 0.5", ["knowledge: 1", "behaviour: 0.5"]),
        ("/trait cautious 0.5\n/trait", ["traits: helpful 0.7, cautious 0.5"]),
        (
            "/filter\n/filter untuned_floor -7\n/stats",
            ["filter: off", "filter: untuned_floor -7", "cautious 0.3 · unt"],
        ),
        ("/filter base_min_p 0.1\n/filter base_top_p 0.9\n/filter base_min_p off", ["filter: base_top_p 0.9\n"]),
        ("/filter base_min_p 0.1\n/filter off", ["filter: off"]),
        ("/system\n/system Be brief.\n/system none", ["System message: none", "System message: Be brief."]),
        ("/stats\nHi\n/stats", ["no reply yet", "context: 24 of 512 tokens", "ms per token: base"]),
        ("/quit\nHi", []),
    ],
)
def test_commands_that_show(lines: str, shown: list[str], command: Callable, fake) -> None:
    outcome = command("chat", stdin=lines)
    assert outcome.code == 0
    for text in shown:
        assert text in outcome.err


def test_system_reset_and_regen(command: Callable, fake) -> None:
    command(
        "chat", "--system", "Be kind.", "--seed", "5", stdin="one\n/regen\n/regen\n/system none\ntwo\n/reset\nthree"
    )
    assert [contents(request) for request in fake.requests] == [
        ["Be kind.", "one"],
        ["Be kind.", "one"],
        ["Be kind.", "one"],
        ["one", "reply 3 to: one", "two"],
        ["three"],
    ]
    # A fixed seed gives the same chat again, and /regen another reply all the same.
    assert [request["sampling"].seed for request in fake.requests] == [5, 6, 7, 5, 5]


def test_save_and_load(command: Callable, fake, tmp_path: Path) -> None:
    path = tmp_path / "talk.json"
    command("chat", stdin=f"/trait cautious 0.5\none\n/save {path}")
    saved = json.loads(path.read_text())
    assert [message["content"] for message in saved["messages"]] == ["one", "reply 1 to: one"]
    command("chat", stdin=f"/load {path}\ntwo")
    assert contents(fake.requests[1]) == ["one", "reply 1 to: one", "two"]
    assert fake.requests[1]["blend"].traits == {"cautious": 0.5}


def test_continue(command: Callable, fake) -> None:
    command("chat", "--system", "Be kind.", "--behaviour", "0.5", "--trait", "helpful=1", stdin="one\n/knowledge 1.5")
    assert fake.options["family"] is None
    command("chat", "--continue", "--trait", "cautious=0", "--ctx", "99", stdin="two")
    assert contents(fake.requests[1]) == ["Be kind.", "one", "reply 1 to: one", "two"]
    assert fake.requests[1]["blend"] == Blend(knowledge=1.5, behaviour=0.5, traits={"helpful": 1.0, "cautious": 0.0})
    assert fake.options["family"] == "/models/family.toml" and fake.options["ctx"] == 99


def test_the_filter_is_kept_with_the_chat(command: Callable, fake, tmp_path: Path) -> None:
    path = tmp_path / "talk.json"
    command("chat", "--untuned-floor", "-5", stdin=f"one\n/filter base_min_p 0.1\ntwo\n/save {path}")
    command("chat", "--continue", "--untuned-floor", "-7", stdin="three")
    command("chat", stdin=f"/load {path}\nfour\n/filter off\nfive")
    assert [request["blend"].filter for request in fake.requests] == [
        Filter(untuned_floor=-5),
        Filter(untuned_floor=-5, base_min_p=0.1),
        Filter(untuned_floor=-7, base_min_p=0.1),
        Filter(untuned_floor=-5, base_min_p=0.1),
        Filter(),
    ]


def test_continue_with_other_models_forgets_traits_that_they_lack(command: Callable, fake) -> None:
    command("chat", "--trait", "helpful=1", stdin="one")
    fake.trait_names = ("cautious",)
    outcome = command("chat", "--continue", "-f", "other.toml", stdin="two")
    assert outcome.code == 0
    assert fake.options["family"] == "other.toml"
    assert fake.requests[1]["blend"] == Blend()


def test_ctrl_c_keeps_what_was_said(command: Callable, fake) -> None:
    fake.before_word = lambda number: os.kill(os.getpid(), signal.SIGINT) if number == 1 else None
    outcome = command("chat", stdin="one\n")
    assert outcome.out == "reply 1 \n"
    fake.before_word = lambda number: None
    command("chat", "--continue", stdin="two")
    assert contents(fake.requests[1]) == ["one", "reply 1 ", "two"]


def test_ctrl_c_before_the_reply_takes_the_question_back(command: Callable, fake) -> None:
    fake.before_word = lambda number: os.kill(os.getpid(), signal.SIGINT)
    fake.opening = [""]
    outcome = command("chat", stdin="one\n")
    assert outcome.out == "" and "taken back" in outcome.err
    fake.before_word = lambda number: None
    command("chat", "--continue", stdin="two")
    assert contents(fake.requests[1]) == ["two"]


def test_an_exception_in_mid_reply_loses_nothing(command: Callable, fake) -> None:
    def crash(number: int) -> None:
        if number == 2:
            raise MemoryError

    fake.before_word = crash
    with pytest.raises(MemoryError):
        command("chat", stdin="one\n")
    fake.before_word = lambda number: None
    command("chat", "--continue", stdin="two")
    assert contents(fake.requests[1]) == ["one", "reply 1 ", "two"]


def test_continue_without_a_chat(command: Callable, fake) -> None:
    outcome = command("chat", "--continue", stdin="two")
    assert outcome.code == 2 and "there is no chat to continue" in outcome.err
