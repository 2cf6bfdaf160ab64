"""Messages → the text that a model continues, by the model's own chat template."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from eft_gguf.errors import OptionError

ROLES = ("system", "user", "assistant", "tool")
# For models that know no control tokens. It ends with a line break, as chat templates do: after a space or a colon the
# bases would expect a reply's first token with a leading space, the tuned model without.
PLAIN_TEMPLATE = (
    "{% for message in messages %}{{ message.role | capitalize + ':\n' + message.content + '\n\n' }}{% endfor %}"
    "{{ 'Assistant:\n' }}"
)
PLAIN = "complete plain text instead (eft-gguf run --raw)"


def render(
    messages: Sequence[Mapping[str, Any]],
    *,
    template: str,
    bos: str,
    eos: str,
    tools: Sequence[Mapping[str, Any]] | None = None,
    variables: Mapping[str, Any] | None = None,
) -> str:
    """Fill a Jinja template with messages, up to where the assistant's next words begin.

    tools: functions that the model may call, as OpenAI's clients describe them. Raises OptionError where the template
    has no place for them.  variables: others that the template may ask for, such as enable_thinking.

    Tokenize the text with special tokens parsed and no BOS added: the template writes it where it wants one.
    Templates come from downloaded files; they run in Jinja's sandbox, within limits (models/templates.py). Raises
    OptionError for messages of a wrong form, and where the template refuses them or does too much.
    """
    checked = check_messages(messages)
    if not template.strip():
        raise OptionError("the model has no chat template", hint=PLAIN)
    # Imported here because Jinja takes 40 ms to import.
    from eft_gguf.models.template_limits import LimitError
    from eft_gguf.models.templates import check, fill

    try:
        check(template)
    except Exception as error:  # Jinja's lexer, parser and compiler raise many kinds
        raise OptionError(f"the model's chat template cannot be parsed: {error}", hint=PLAIN) from error
    given = {
        **(variables or {}),
        "messages": checked,
        "bos_token": bos,
        "eos_token": eos,
        "add_generation_prompt": True,
        "functions": None,
        "function_call": None,
        "tools": None,
        "tool_choice": None,
    }
    try:
        text = fill(template, given)
        if not tools:
            return text
        with_tools = fill(template, given | {"tools": list(tools)})
    except LimitError as error:
        raise OptionError(f"the model's chat template was stopped: {error}", hint=PLAIN) from error
    except Exception as error:  # a template is a program: anything may come out of it
        roles = ", ".join(message["role"] for message in checked)
        raise OptionError(
            f"the model's chat template refused the messages ({roles:.200}): {error}",
            hint=f"some templates take no system message, or want user and assistant in turn; or {PLAIN}",
        ) from error
    if with_tools == text:
        raise OptionError(
            "the tuned model's chat template has no place for tools, so the model would not hear of them",
            hint="leave tools out, or use a tuned model that was trained to call them",
        )
    return with_tools


def check_messages(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Copies of the messages: role, content, and what belongs to tool calls. Raises OptionError that tells which one is
    wrong."""
    given: object = messages  # from JSON it may be anything
    if not isinstance(given, (list, tuple)) or not given:
        raise OptionError("messages must be a list with at least one message", hint=_example())
    checked = []
    for number, message in enumerate(given, 1):
        if not isinstance(message, Mapping):
            raise OptionError(f"message {number} is {type(message).__name__}, not a mapping", hint=_example())
        role, content, calls = message.get("role"), message.get("content"), message.get("tool_calls")
        if role not in ROLES:
            raise OptionError(f"message {number} has the role {role!r}", hint=f"use one of {', '.join(ROLES)}")
        if content is None and calls:
            content = ""
        if not isinstance(content, str):
            raise OptionError(
                f"the content of message {number} is {type(content).__name__}, not a text", hint=_example()
            )
        kept: dict[str, Any] = {}
        if role == "tool":
            kept = {name: message[name] for name in ("name", "tool_call_id") if isinstance(message.get(name), str)}
        if calls:
            kept["tool_calls"] = [_call(call) for call in calls]
        checked.append({"role": role, "content": content, **kept})
    return checked


def _call(call: Mapping[str, Any]) -> dict[str, Any]:
    """A tool call as templates read it: its arguments as an object, which clients send as the text of one."""
    function = dict(call["function"])
    arguments = function.get("arguments")
    try:
        parsed = json.loads(arguments or "{}") if isinstance(arguments, str) else arguments
    except ValueError:
        parsed = arguments
    return {**call, "function": {**function, "arguments": {} if parsed is None else parsed}}


def _example() -> str:
    return 'a message looks like {"role": "user", "content": "Hello"}'
