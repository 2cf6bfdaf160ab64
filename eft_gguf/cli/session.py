"""The conversation on disk: every event is written as it happens, so that a crash loses nothing of it.

A chat is one file of JSON lines under `state_folder() / "chats"`, only ever appended to. Reading it
from the top gives back the conversation. The events, by their "event" field:

    models      what to open again: the model options            {"models": {"family": "…"}}
    dials       both dials, trait weights and filter given       {"dials": {"knowledge": 1.0, …}}
    name        what the user calls the chat                     {"text": "…"}
    system      the system message; empty for none               {"text": "…"}
    user        a message of the user                            {"text": "…"}
    reply       a piece of the assistant's reply, as it came     {"text": "…"}
    end         the reply is over                                {"finish_reason": "stop", "seed": 7}
    retract     the last message is taken back (/regen)          {}
    replace     another conversation takes its place (/load, /reset)   {"system": "…", "messages": […]}
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from eft_gguf.cli.display import note
from eft_gguf.cli.reading import read_text
from eft_gguf.errors import EFTError, OptionError
from eft_gguf.files import state_folder, write_aside

Message = dict[str, str]


@dataclass
class Conversation:
    """What has been said and set so far."""

    system: str = ""
    messages: list[Message] = field(default_factory=list)
    dials: dict[str, Any] = field(default_factory=dict)
    models: dict[str, Any] = field(default_factory=dict)
    name: str = ""

    @property
    def title(self) -> str:
        """The name, or else how the first message begins."""
        return self.name or " ".join(self.messages[0]["content"].split())[:50] if self.messages else self.name

    @property
    def unanswered(self) -> bool:
        return bool(self.messages) and self.messages[-1]["role"] == "user"

    def prompt(self) -> list[Message]:
        """The messages to answer, the system message among them."""
        prompt = [{"role": "system", "content": self.system}] if self.system else []
        for message in self.messages:
            # Questions without a reply (a crash came between) become one: many templates insist on turns.
            if prompt and prompt[-1]["role"] == message["role"] == "user":
                prompt[-1] = {"role": "user", "content": f"{prompt[-1]['content']}\n\n{message['content']}"}
            else:
                prompt.append(message)
        return prompt

    def apply(self, event: dict[str, Any]) -> None:
        """Take one event in. Raises KeyError or TypeError for one that is none."""
        kind = event["event"]
        if kind == "user":
            self._add("user", event["text"])
        elif kind == "reply" and not self.unanswered:
            self.messages[-1]["content"] += _text(event["text"])
        elif kind == "reply":
            self._add("assistant", event["text"])
        elif kind == "end":
            # A reply may be empty; without a message in its place the next question would join this one.
            if self.unanswered:
                self._add("assistant", "")
        elif kind == "retract":
            del self.messages[-1]
        elif kind == "replace":
            self.system, self.messages = (
                _text(event["system"]),
                [_message(entry) for entry in event["messages"]],
            )
        elif kind == "system":
            self.system = _text(event["text"])
        elif kind == "name":
            self.name = _text(event["text"])
        elif kind == "dials":
            self.dials = _dials(event["dials"])
        elif kind == "models":
            self.models = _models(event["models"])
        else:
            raise KeyError(kind)

    def _add(self, role: str, text: str) -> None:
        self.messages.append(_message({"role": role, "content": text}))


class Session:
    """A conversation and the file that it is kept in."""

    def __init__(self, path: Path, conversation: Conversation, stream: IO[str] | None = None) -> None:
        self.path = path
        self.conversation = conversation
        self._stream = stream
        self._held: list[str] = []
        self._lost = False

    @classmethod
    def new(cls) -> Session:
        name = f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.jsonl"
        return cls(state_folder() / "chats" / name, Conversation())

    @classmethod
    def last(cls) -> Session:
        """The chat that was talked in last, to be gone on with. Raises OptionError where there is none."""
        files = chats()
        if not files:
            raise OptionError("there is no chat to continue", hint="start one: eft-gguf chat")
        return cls.open(files[0])

    @classmethod
    def open(cls, path: Path) -> Session:
        """A chat on disk, to be gone on with. Raises EFTError where it is damaged, or open elsewhere."""
        try:
            stream = _open(path)
        except OSError as error:
            raise EFTError(f"cannot open {path}: {error.strerror}", hint="start a new chat: eft-gguf chat") from None
        try:
            return cls(path, _read(path, stream), stream)
        except BaseException:
            stream.close()
            raise

    def record(self, kind: str, **fields: Any) -> None:
        """Let an event happen and write it down at once. Where it cannot be written, the chat goes on all the same."""
        event = {"event": kind, **fields}
        self.conversation.apply(event)
        if self._lost:
            return
        self._held.append(json.dumps(event, ensure_ascii=False) + "\n")
        # A chat in which nothing was said leaves no file: --continue is to find the one before it.
        if self._stream is None and kind not in ("user", "replace"):
            return
        try:
            if self._stream is None:
                self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
                self._stream = _open(self.path)
            self._stream.write("".join(self._held))
            self._stream.flush()
        except OSError as error:
            self._lose(error)
        self._held.clear()

    def _lose(self, error: OSError) -> None:
        self._lost = True
        note(f"note: this chat is no longer kept on disk: {self.path}: {error.strerror}")

    def close(self) -> None:
        if self._stream:
            try:
                self._stream.close()
            except OSError as error:
                if not self._lost:
                    self._lose(error)


def chats() -> list[Path]:
    """The chats on disk, the one talked in last first."""
    found = []
    for path in (state_folder() / "chats").glob("*.jsonl"):
        with contextlib.suppress(OSError):  # a link that leads nowhere
            if path.is_file():
                found.append((path.stat().st_mtime, path))
    return [path for _, path in sorted(found, reverse=True)]


def peek(path: Path) -> Conversation | None:
    """A chat as it stands on disk, also one that is open elsewhere; None where it is damaged."""
    try:
        return _read(path, None)
    except (EFTError, OSError):
        return None


def save(conversation: Conversation, path: Path) -> None:
    """Write the conversation to a JSON file of the user's."""
    content = {"system": conversation.system, "messages": conversation.messages, "dials": conversation.dials}
    write_aside(path, json.dumps(content, ensure_ascii=False, indent=2) + "\n", private=True)


def load(path: Path) -> Conversation:
    """Read a conversation that `save` wrote."""
    try:
        content = json.loads(read_text(path))
        return Conversation(
            system=_text(content.get("system", "")),
            messages=[_message(entry) for entry in content["messages"]],
            dials=_dials(content.get("dials", {})),
        )
    except EFTError:
        raise
    except _DAMAGE:
        raise OptionError(f"{path} is no saved conversation", hint="name a file that /save wrote") from None


_DAMAGE = (ValueError, KeyError, TypeError, IndexError, AttributeError, OverflowError, RecursionError)
"""What reading events that are none ends in."""


def _text(value: Any) -> str:
    """Raises TypeError for what is no text, UnicodeEncodeError (a ValueError) for half a character."""
    if not isinstance(value, str):
        raise TypeError(value)
    value.encode("utf-8")
    return value


def _message(entry: dict[str, Any]) -> Message:
    if entry["role"] not in ("user", "assistant"):
        raise TypeError(entry)
    return {"role": entry["role"], "content": _text(entry["content"])}


def _models(table: dict[str, Any]) -> dict[str, Any]:
    """Which models to open, as `options.reopening` writes it."""
    models: dict[str, Any] = {}
    for name, value in table.items():
        if name not in ("family", "base", "untuned", "tuned", "examples"):
            raise KeyError(name)
        models[name] = [_text(entry) for entry in value] if name == "tuned" and isinstance(value, list) else value
        if not isinstance(models[name], list):
            _text(value)
    return models


def _dials(table: dict[str, Any]) -> dict[str, Any]:
    numbers: dict[str, Any] = {name: float(table[name]) for name in ("knowledge", "behaviour") if name in table}
    for name in ("traits", "filter"):
        if name in table:
            numbers[name] = {str(key): float(value) for key, value in table[name].items()}
    return numbers


def _open(path: Path) -> IO[str]:
    """Open for appending, for this process alone and readable by the user alone."""
    import fcntl

    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    stream = os.fdopen(descriptor, "a", encoding="utf-8", newline="\n")
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        stream.close()
        raise EFTError("the last chat is still open elsewhere", hint="leave it there, or start a new one") from None
    return stream


def _read(path: Path, stream: IO[str] | None) -> Conversation:
    """Live through a chat again. What a crash left of a last line is cut off in `stream`."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise EFTError(f"cannot read {path}: {error.strerror}", hint="start a new chat: eft-gguf chat") from None
    complete = data.rfind(b"\n") + 1
    if complete < len(data) and stream is not None:
        stream.truncate(complete)
    conversation = Conversation()
    for number, line in enumerate(data[:complete].split(b"\n")[:-1], 1):
        try:
            conversation.apply(json.loads(line))
        except _DAMAGE:
            raise EFTError(
                f"{path} is damaged in line {number}",
                hint="remove that line, or start a new chat without --continue",
            ) from None
    return conversation
