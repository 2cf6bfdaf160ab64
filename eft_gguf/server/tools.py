"""Tool calls: in which form the tuned model writes them, how one is forced, and how they are found in what it says."""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from eft_gguf.engine.closing import closed
from eft_gguf.engine.json_schema import prepared
from eft_gguf.errors import OptionError
from eft_gguf.server.schema import Function, Tool

# A reply at a high temperature could go on with white space for ever.
SPACE = {"whitespace_flexible": True, "whitespace_pattern": r"\x20|\r?\n[\x20\t]{0,24}"}
OPEN, CLOSE = "<tool_call>", "</tool_call>"


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call. arguments: the text of a JSON object."""

    id: str
    name: str
    arguments: str

    def plain(self) -> dict[str, Any]:
        """As OpenAI's clients read it."""
        return {"id": self.id, "type": "function", "function": {"name": self.name, "arguments": self.arguments}}


@dataclass(frozen=True, slots=True)
class Form:
    """How a model writes a call: an object with the keys `name` and `arguments`, between marks that may be empty."""

    opening: str
    closing: str
    arguments: str


def has_place(template: str) -> bool:
    """Whether a chat template tells the model of tools, in a form that is known here."""
    try:
        form_of(template)
    except OptionError:
        return False
    return True


def form_of(template: str) -> Form:
    """The form that a chat template teaches. Raises OptionError for one that is not known here."""
    if "tools" not in template:
        raise OptionError(
            "the tuned model's chat template has no place for tools: the model would not hear of them",
            hint="leave tools out, or use a tuned model that was trained to call them",
        )
    # Qwen 2.5 and 3, Hermes and those that follow them.
    if OPEN in template and "<function=" not in template:
        return Form(f"{OPEN}\n", f"\n{CLOSE}", "arguments")
    # Llama 3.1 and later: the whole reply is the object.
    if '"parameters"' in template and "tool" in template:
        return Form("", "", "parameters")
    raise OptionError(
        "the form in which the tuned model's template writes tool calls is not known here",
        hint=f"those of Qwen and Hermes ({OPEN}) and of Llama 3 are; or leave tools out",
    )


def forcing(form: Form, functions: Sequence[Function]) -> str:
    """A Lark grammar that leaves no choice but a call of one of the functions, each with its own schema, whole.

    Raises OptionError for a schema that cannot be followed.
    """
    rules = [f"start: {_quoted(form.opening)}call{_quoted(form.closing, before=' ')}"]
    calls = []
    for number, function in enumerate(functions):
        head = f'{{"name": {json.dumps(function.name)}, {json.dumps(form.arguments)}: '
        calls.append(f"call{number}")
        schema = json.dumps(
            {**json.loads(closed(prepared(function.parameters or {"type": "object"}))), "x-guidance": SPACE}
        )
        rules.append(f'call{number}: {json.dumps(head)} arguments{number} "}}"')
        rules.append(f"arguments{number}: %json {schema}")
    return "\n".join([rules[0], f"call: {' | '.join(calls)}", *rules[1:]])


def _quoted(mark: str, before: str = "") -> str:
    return f"{before}{json.dumps(mark)} " if mark else ""


class Reader(Protocol):
    """Finds calls in what a model says, piece by piece."""

    def push(self, text: str) -> tuple[str, list[ToolCall]]:
        """Text that is none of a call, and calls that are whole by now."""

    def flush(self) -> tuple[str, list[ToolCall]]:
        """The same at the end."""


class PlainReader:
    """Where there are no tools, all is text."""

    def push(self, text: str) -> tuple[str, list[ToolCall]]:
        return text, []

    def flush(self) -> tuple[str, list[ToolCall]]:
        return "", []


class CallReader:
    """For a form and the tools on offer. What looks like a call but is none stays text."""

    def __init__(self, form: Form, tools: Sequence[Tool]) -> None:
        self._form = form
        self._names = {tool.function.name for tool in tools}
        self._held = ""
        self._begun = False
        self._called = False

    def push(self, text: str) -> tuple[str, list[ToolCall]]:
        self._held += text
        return self._marked() if self._form.opening else self._unmarked()

    def flush(self) -> tuple[str, list[ToolCall]]:
        held, self._held = self._held, ""
        body = held.removeprefix(OPEN) if self._form.opening else held
        if body != held:
            # Small models close a call with another tag, or not at all.
            body = re.sub(r"\s*</\w*>?\s*$", "", body)
        call = self._call(body) if body != held or not self._form.opening else None
        return ("", [call]) if call else (held, [])

    def _marked(self) -> tuple[str, list[ToolCall]]:
        said = ""
        calls: list[ToolCall] = []
        while True:
            before, mark, rest = self._held.partition(OPEN)
            if not mark:
                keep = _beginning(self._held, OPEN)
                text = self._held[: len(self._held) - keep]
                said += text if text.strip() or not self._called else ""
                self._held = self._held[len(self._held) - keep :]
                return said, calls
            body, end, after = self._closed(rest)
            # White space around calls is not what was said.
            said += before if before.strip() else ""
            if not end:
                self._held = OPEN + rest
                return said, calls
            call = self._call(body)
            if call is None:
                said += OPEN + body + CLOSE
            else:
                calls.append(call)
                self._called = True
            self._held = after.lstrip("\n") if call else after

    @staticmethod
    def _closed(rest: str) -> tuple[str, str, str]:
        """As `partition` at the closing mark, where that is no part of a text in the call."""
        at = -1
        while (at := rest.find(CLOSE, at + 1)) >= 0:
            if not re.sub(r"\\.", "", rest[:at]).count('"') % 2:
                return rest[:at], CLOSE, rest[at + len(CLOSE) :]
        return rest, "", ""

    def _unmarked(self) -> tuple[str, list[ToolCall]]:
        # Only a reply that begins like an object may be a call, and it is one only as a whole.
        if not self._begun and (not self._held.strip() or self._held.lstrip().startswith("{")):
            return "", []
        self._begun = True
        said, self._held = self._held, ""
        return said, []

    def _call(self, body: str) -> ToolCall | None:
        try:
            found = json.loads(body)
        except (ValueError, RecursionError):
            return None
        if not isinstance(found, dict) or not isinstance(name := found.get("name"), str) or name not in self._names:
            return None
        arguments = found.get("arguments", found.get("parameters", {}))
        if isinstance(arguments, str):
            try:
                arguments = json.loads(arguments or "{}")
            except (ValueError, RecursionError):
                return None
        if arguments is None:
            arguments = {}
        if not isinstance(arguments, dict):
            return None
        return ToolCall(f"call_{secrets.token_hex(12)}", name, json.dumps(arguments, ensure_ascii=False))


def _beginning(text: str, mark: str) -> int:
    """The length of the longest end of `text` with which `mark` begins."""
    return next((length for length in range(min(len(mark) - 1, len(text)), 0, -1) if text.endswith(mark[:length])), 0)
