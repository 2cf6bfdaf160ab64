"""The conversation on disk: nothing is lost, whatever happens when."""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from eft_gguf.cli.session import Conversation, Session, load, save
from eft_gguf.errors import EFTError, OptionError


@pytest.fixture
def talked() -> Iterator[Callable[..., Session]]:
    """Makes a session in which these events happened."""
    with ExitStack() as stack:

        def make(*events: tuple[str, dict]) -> Session:
            session = Session.new()
            stack.callback(session.close)
            for kind, fields in events:
                session.record(kind, **fields)
            return session

        yield make


def last() -> Conversation:
    with closing(Session.last()) as session:
        return session.conversation


def said(text: str) -> tuple[str, dict]:
    return "user", {"text": text}


def replied(text: str) -> tuple[str, dict]:
    return "reply", {"text": text}


END = ("end", {"finish_reason": "stop", "seed": 1})


def test_a_chat_comes_back(talked: Callable[..., Session]) -> None:
    events = [said("Hi"), replied("Good "), replied("day."), END]
    session = talked(
        ("models", {"models": {"family": "bundled"}}),
        ("system", {"text": "Be kind."}),
        ("dials", {"dials": {"knowledge": 1.2, "behaviour": 0.8, "traits": {"cautious": 0.5}}}),
        *events,
    )
    session.close()
    assert last() == Conversation(
        system="Be kind.",
        messages=[{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Good day."}],
        dials={"knowledge": 1.2, "behaviour": 0.8, "traits": {"cautious": 0.5}},
        models={"family": "bundled"},
    )


def test_each_event_is_on_disk_at_once(talked: Callable[..., Session]) -> None:
    session = talked(said("Hi"), replied("Good "))
    lines = session.path.read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["event"] for line in lines] == ["user", "reply"]
    assert session.path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("torn", [b'{"event": "reply", "te', b'{"event"', b"\xc3", b"{"])
def test_a_torn_last_line_is_cut_off(torn: bytes, talked: Callable[..., Session]) -> None:
    session = talked(said("Hi"), replied("Good "))
    session.close()
    with session.path.open("ab") as stream:
        stream.write(torn)
    again = Session.last()
    assert again.conversation.messages[-1]["content"] == "Good "
    again.record("reply", text="day.")
    again.close()
    assert last().messages[-1]["content"] == "Good day."


@pytest.mark.parametrize("line", ["{}", "nonsense", '{"event": "frobnicate"}', '{"event": "user", "text": 7}', "[1]"])
def test_a_damaged_line_is_named(line: str, talked: Callable[..., Session]) -> None:
    session = talked(said("Hi"))
    session.close()
    session.path.write_text(session.path.read_text() + line + "\n")
    with pytest.raises(EFTError, match="damaged in line 2"):
        Session.last()


def test_a_chat_in_which_nothing_was_said_leaves_no_file(state: Path, talked: Callable[..., Session]) -> None:
    talked(("system", {"text": "Be kind."}), ("dials", {"dials": {"knowledge": 2}}))
    assert not list(state.glob("chats/*"))
    with pytest.raises(OptionError, match="no chat to continue"):
        Session.last()


def test_the_last_chat_is_the_one_talked_in_last(talked: Callable[..., Session]) -> None:
    first, second = talked(said("first")), Session.new()
    second.path = second.path.with_name("another.jsonl")
    second.record("user", text="second")
    first.close()
    second.close()
    os.utime(second.path, (1, 1))
    assert last().messages[0]["content"] == "first"


def test_a_chat_is_open_only_once(talked: Callable[..., Session]) -> None:
    talk = talked(said("Hi"))
    with pytest.raises(EFTError, match="still open elsewhere"):
        Session.last()
    talk.close()


@pytest.mark.parametrize(
    ("events", "messages"),
    [
        ([said("a"), replied("b"), END, ("retract", {})], ["a"]),
        ([said("a"), ("retract", {})], []),
        ([said("a"), END], ["a", ""]),
        ([said("a"), said("b"), ("retract", {})], ["a"]),
        ([said("a"), ("replace", {"system": "", "messages": []})], []),
        ([said("a"), replied("b"), ("end", {"finish_reason": "interrupted", "seed": 1}), said("c")], ["a", "b", "c"]),
    ],
)
def test_events(events: list, messages: list[str], talked: Callable[..., Session]) -> None:
    assert [message["content"] for message in talked(*events).conversation.messages] == messages


def test_questions_without_a_reply_are_asked_as_one(talked: Callable[..., Session]) -> None:
    conversation = talked(said("a"), replied("b"), END, said("c"), said("d")).conversation
    assert [message["content"] for message in conversation.prompt()] == ["a", "b", "c\n\nd"]
    assert len(conversation.messages) == 4


def test_save_and_load(tmp_path: Path) -> None:
    path = tmp_path / "talk.json"
    path.write_text("before")
    messages = [{"role": "user", "content": "Grüße"}, {"role": "assistant", "content": "Hallo"}]
    dials = {"knowledge": 1.2, "behaviour": 0.8, "traits": {"cautious": 0.5}, "filter": {"untuned_floor": -7.0}}
    conversation = Conversation("Be kind.", messages, dials)
    save(conversation, path)
    assert load(path) == conversation
    assert [entry.name for entry in tmp_path.iterdir()] == ["talk.json"]


def test_save_leaves_the_old_file_where_it_fails(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="cannot write"):
        save(Conversation(), tmp_path)
    with pytest.raises(OptionError, match="cannot write"):
        save(Conversation(), tmp_path / "missing" / "talk.json")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        '{"messages": 7}',
        '{"messages": [{"role": "user"}]}',
        '{"messages": [{"role": "wizard", "content": "Hi"}]}',
        '{"messages": [], "dials": {"knowledge": "much"}}',
        '{"messages": [], "dials": {"traits": [1]}}',
        '{"messages": [], "dials": {"filter": {"base_min_p": "little"}}}',
    ],
)
def test_load_refuses_other_files(content: str, tmp_path: Path) -> None:
    path = tmp_path / "talk.json"
    path.write_text(content)
    with pytest.raises(OptionError, match="no saved conversation"):
        load(path)
