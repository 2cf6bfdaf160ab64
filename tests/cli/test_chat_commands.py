"""What can be changed, taken back, compared and found again within a chat."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from eft_gguf import Sampling


def contents(request: dict) -> list[str]:
    return [message["content"] for message in request["prompt"]]


def test_set(command: Callable, fake, tmp_path: Path) -> None:
    (tmp_path / "g.gbnf").write_text('root ::= "a"')
    lines = [
        "/set temperature 0.3",
        "/set --top-k 5",
        "/set stop END OF",
        "/set seed 3",
        "/set logit_bias 11=-1.5 12=2",
    ]
    lines += [f"/set grammar {tmp_path / 'g.gbnf'}", "one", "/set", "/set grammar off", "/set seed default", "two"]
    outcome = command("chat", stdin="\n".join(lines))
    assert outcome.code == 0
    first = Sampling(
        temperature=0.3, top_k=5, stop=("END OF",), seed=3, logit_bias={11: -1.5, 12: 2.0}, grammar='root ::= "a"'
    )
    assert fake.requests[0]["sampling"] == first
    assert (fake.requests[1]["sampling"].grammar, fake.requests[1]["sampling"].seed) == (None, None)
    assert "temperature 0.3\ntop_k 5\n" in outcome.err and "What can be set: temperature, top_k" in outcome.err


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("/set temprature 1", "there is nothing called temprature to set. Did you mean temperature?"),
        ("/set temperature hot", "temperature takes a number, not 'hot'"),
        ("/set top_k 1.5", "top_k takes a whole number, not '1.5'"),
        ("/set temperature -1", "temperature must be 0 or more"),
        ("/set grammar nowhere.gbnf", "cannot read nowhere.gbnf"),
        ("/knowlege 1", "there is no command /knowlege. Did you mean /knowledge?"),
        ("/undo", "there is nothing to take back"),
        ("/drop", "there is no older one"),
        ("/compare", "there is no question"),
        ("/chats 9", "there is no chat 9"),
        ("/save /", "'/' is no name of a file"),
        ("/save .", "'.' is no name of a file"),
        ("/save ~nobodyhere/x", "'~nobodyhere/x' is no name of a file"),
        ("/save a\0b", "'a\\x00b' is no name of a file"),
        ("/load " + "n" * 300, "is too long"),
        ("/load a/" + "n" * 300, "is too long"),
        ("/load ~nobodyhere/x", "is no name of a file"),
    ],
)
def test_one_clear_line(line: str, message: str, command: Callable, fake) -> None:
    outcome = command("chat", stdin=line)
    assert outcome.code == 2 and message in outcome.err.splitlines()[0]
    assert len(outcome.err.splitlines()) == 2


def test_undo_and_other_names(command: Callable, fake) -> None:
    outcome = command("chat", stdin="one\ntwo\n/undo\nthree\n/retry\n/clear\nfour\n/bye\nfive")
    assert [contents(request) for request in fake.requests] == [
        ["one"],
        ["one", "reply 1 to: one", "two"],
        ["one", "reply 1 to: one", "three"],
        ["one", "reply 1 to: one", "three"],
        ["four"],
    ]
    assert "Taken back, with its reply: two" in outcome.err


@pytest.mark.parametrize("word", ["exit", "quit", "/exit", "/quit", "/bye"])
def test_words_that_leave(word: str, command: Callable, fake) -> None:
    assert command("chat", stdin=f" {word.lstrip('/')}\n{word}\nnever").code == 0
    assert [contents(request) for request in fake.requests] == [[word.lstrip("/")]]


def test_a_full_context_is_no_dead_end(command: Callable, fake) -> None:
    outcome = command("chat", stdin="one\ntwo\nthree\n/drop 2\ntoo long")
    assert contents(fake.requests[-1]) == ["three", "reply 3 to: three", "too long"]
    assert outcome.code == 2 and "/drop leaves out the oldest turn" in outcome.err and "--ctx" not in outcome.err


def test_compare(command: Callable, fake) -> None:
    outcome = command("chat", "--seed", "5", "--knowledge", "1.5", stdin="one\n/compare\ntwo")
    dials = [(request["blend"].knowledge, request["blend"].behaviour) for request in fake.requests[1:6]]
    assert dials == [(0.0, 1.0), (1.0, 1.0), (0.0, 0.0), (1.0, 0.0), (1.5, 1.0)]
    assert {request["sampling"].seed for request in fake.requests[1:6]} == {5}
    assert all(contents(request) == ["one"] for request in fake.requests[1:6])
    assert "yours" in outcome.err and "reply 6 to: one" in outcome.err
    assert contents(fake.requests[6]) == ["one", "reply 1 to: one", "two"]  # nothing of it is said


def test_chats(command: Callable, fake, state: Path) -> None:
    command("chat", stdin="first of all\n/name Peru")
    [first] = (state / "chats").iterdir()
    first = first.rename(first.with_name("1.jsonl"))
    os.utime(first, (1, 1))
    (state / "chats" / "gone.jsonl").symlink_to(state / "nowhere")
    os.mkfifo(state / "chats" / "pipe.jsonl")
    outcome = command("chat", "--knowledge", "1.5", stdin="second\n/chats\n/chats 2\ngo on")
    assert outcome.code == 0
    shown = [line for line in outcome.err.splitlines() if "messages)" in line]
    assert "second  (2 messages)  ← this one" in shown[0] and "Peru  (2 messages)" in shown[1] and len(shown) == 2
    assert contents(fake.requests[2]) == ["first of all", "reply 1 to: first of all", "go on"]
    assert fake.requests[2]["blend"].knowledge == 1.0
    assert json.loads(first.read_text().splitlines()[-1])["event"] == "end"


@pytest.mark.parametrize(
    "line",
    [
        '{"event": "models", "models": {"ctxx": 3}}',
        '{"event": "models", "models": {"family": 3}}',
        '{"event": "models", "models": [1]}',
        '{"event": "system", "text": ["a"]}',
        '{"event": "user", "text": "\\ud800"}',
        '{"event": "dials", "dials": {"knowledge": 1' + "0" * 400 + "}}",
        '{"event": "dials", "dials": {"knowledge": 1' + "0" * 5000 + "}}",
        "[" * 100_000,
    ],
)
def test_damaged_sessions(line: str, command: Callable, fake, state: Path) -> None:
    (state / "chats").mkdir(parents=True)
    (state / "chats" / "1.jsonl").write_text('{"event": "user", "text": "Hi"}\n' + line + "\n")
    outcome = command("chat", "--continue", stdin="one")
    assert outcome.code == 2 and "damaged in line 2" in outcome.err.splitlines()[0]


def test_a_home_that_cannot_be_written_to(command: Callable, fake, state: Path) -> None:
    state.write_text("a file, where a folder is wanted")
    outcome = command("chat", stdin="one\ntwo")
    assert outcome.code == 0 and outcome.out.count("reply") == 2
    assert outcome.err.count("no longer kept on disk") == 1
