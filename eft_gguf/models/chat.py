"""Messages → the text that a model continues, by the model's own chat template."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from eft_gguf.errors import OptionError

ROLES = ("system", "user", "assistant")
# For models that know no control tokens. It ends with a line break, as chat templates do: after a space or a colon the
# bases would expect a reply's first token with a leading space, the tuned model without.
PLAIN_TEMPLATE = (
    "{% for message in messages %}{{ message.role | capitalize + ':\n' + message.content + '\n\n' }}{% endfor %}"
    "{{ 'Assistant:\n' }}"
)
PLAIN = "complete plain text instead (eft-gguf run --raw)"


def render(messages: Sequence[Mapping[str, str]], *, template: str, bos: str, eos: str) -> str:
    """Fill a Jinja template with messages, up to where the assistant's next words begin.

    Tokenize the text with special tokens parsed and no BOS added: the template writes it where it wants one.
    Templates come from downloaded files; they run in Jinja's sandbox. Raises OptionError for messages of a
    wrong form, and where the template refuses them.
    """
    checked = check_messages(messages)
    if not template.strip():
        raise OptionError("the model has no chat template", hint=PLAIN)
    # Imported here because it loads llama.cpp's library.
    from llama_cpp.llama_chat_format import Jinja2ChatFormatter

    try:
        formatter = Jinja2ChatFormatter(template, eos_token=eos, bos_token=bos)
    except Exception as error:  # Jinja's lexer, parser and compiler raise many kinds
        raise OptionError(f"the model's chat template cannot be parsed: {error}", hint=PLAIN) from error
    try:
        return str(formatter(messages=checked).prompt)
    except Exception as error:  # a template is a program: anything may come out of it
        given = ", ".join(message["role"] for message in checked)
        raise OptionError(
            f"the model's chat template refused the messages ({given}): {error}",
            hint=f"some templates take no system message, or want user and assistant in turn; or {PLAIN}",
        ) from error


def check_messages(messages: Sequence[Mapping[str, str]]) -> list[dict[str, str]]:
    """Copies of the messages, role and content only. Raises OptionError that tells which one is wrong."""
    given: object = messages  # from JSON it may be anything
    if not isinstance(given, (list, tuple)) or not given:
        raise OptionError("messages must be a list with at least one message", hint=_example())
    checked = []
    for number, message in enumerate(given, 1):
        if not isinstance(message, Mapping):
            raise OptionError(f"message {number} is {type(message).__name__}, not a mapping", hint=_example())
        role, content = message.get("role"), message.get("content")
        if role not in ROLES:
            raise OptionError(f"message {number} has the role {role!r}", hint=f"use one of {', '.join(ROLES)}")
        if not isinstance(content, str):
            raise OptionError(
                f"the content of message {number} is {type(content).__name__}, not a text", hint=_example()
            )
        checked.append({"role": role, "content": content})
    return checked


def _example() -> str:
    return 'a message looks like {"role": "user", "content": "Hello"}'
