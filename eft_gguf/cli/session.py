"""The conversation on disk: every event is written as it happens, so that a crash loses nothing of it.

A chat is one file of JSON lines under `state_folder() / "chats"`, only ever appended to. Reading it
from the top gives back the conversation. The events, by their "event" field:

    models      what to open again: the model options            {"models": {"family": "…"}}
    dials       both dials, trait weights and filter given       {"dials": {"knowledge": 1.0, …}}
    system      the system message; empty for none               {"text": "…"}
    user        a message of the user                            {"text": "…"}
    reply       a piece of the assistant's reply, as it came     {"text": "…"}
    end         the reply is over                                {"finish_reason": "stop", "seed": 7}
    retract     the last message is taken back (/regen)          {}
    replace     another conversation takes its place (/load, /reset)   {"system": "…", "messages": […]}
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

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
            self.messages[-1]["content"] += event["text"]
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
                str(event["system"]),
                [_message(entry) for entry in event["messages"]],
            )
        elif kind == "system":
            self.system = str(event["text"])
        elif kind == "dials":
            self.dials = _dials(event["dials"])
        elif kind == "models":
            self.models = dict(event["models"])
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

    @classmethod
    def new(cls) -> Session:
        name = f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.jsonl"
        return cls(state_folder() / "chats" / name, Conversation())

    @classmethod
    def last(cls) -> Session:
        """The chat that was talked in last, to be gone on with. Raises OptionError where there is none."""
        files = sorted((state_folder() / "chats").glob("*.jsonl"), key=lambda path: path.stat().st_mtime)
        if not files:
            raise OptionError("there is no chat to continue", hint="start one: eft-gguf chat")
        stream = _open(files[-1])
        try:
            return cls(files[-1], _read(files[-1], stream), stream)
        except BaseException:
            stream.close()
            raise

    def record(self, kind: str, **fields: Any) -> None:
        """Let an event happen and write it down at once."""
        event = {"event": kind, **fields}
        self.conversation.apply(event)
        self._held.append(json.dumps(event, ensure_ascii=False) + "\n")
        # A chat in which nothing was said leaves no file: --continue is to find the one before it.
        if self._stream is None:
            if kind not in ("user", "replace"):
                return
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._stream = _open(self.path)
        self._stream.write("".join(self._held))
        self._stream.flush()
        self._held.clear()

    def close(self) -> None:
        if self._stream:
            self._stream.close()


def save(conversation: Conversation, path: Path) -> None:
    """Write the conversation to a JSON file of the user's."""
    content = {"system": conversation.system, "messages": conversation.messages, "dials": conversation.dials}
    write_aside(path, json.dumps(content, ensure_ascii=False, indent=2) + "\n")


def load(path: Path) -> Conversation:
    """Read a conversation that `save` wrote."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return Conversation(
            system=str(content.get("system", "")),
            messages=[_message(entry) for entry in content["messages"]],
            dials=_dials(content.get("dials", {})),
        )
    except OSError as error:
        raise OptionError(f"cannot read {path}: {error.strerror}", hint="name a file that /save wrote") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise OptionError(f"{path} is no saved conversation", hint="name a file that /save wrote") from None


def _message(entry: dict[str, Any]) -> Message:
    if entry["role"] not in ("user", "assistant") or not isinstance(entry["content"], str):
        raise TypeError(entry)
    return {"role": entry["role"], "content": entry["content"]}


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


def _read(path: Path, stream: IO[str]) -> Conversation:
    """Live through a chat again. What a crash left of a last line is cut off."""
    data = path.read_bytes()
    complete = data.rfind(b"\n") + 1
    if complete < len(data):
        stream.truncate(complete)
    conversation = Conversation()
    for number, line in enumerate(data[:complete].split(b"\n")[:-1], 1):
        try:
            conversation.apply(json.loads(line))
        except (ValueError, KeyError, TypeError, IndexError, AttributeError):
            raise EFTError(
                f"{path} is damaged in line {number}",
                hint="remove that line, or start a new chat without --continue",
            ) from None
    return conversation
