"""Examples: demonstrations of the tuned behaviour, which base and untuned read before every conversation.

A family, a flag or a program names them as a number N (the first N of `NEUTRAL_QUESTIONS`) or as a JSONL file, one
example a line: `prompt` (a text) or `messages` (a chat that ends with the user), and `reply`. Where a line has no
reply, the tuned side alone gives it: see demonstrations.py.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eft_gguf.errors import OptionError
from eft_gguf.files import read_file
from eft_gguf.models.chat import check_messages

Message = Mapping[str, Any]
Choice = int | str | Path | Sequence[Mapping[str, Any]] | None
"""How examples are named: a number, "off", a file, or the lines of one. None leaves it to the family."""

NEUTRAL_QUESTIONS = (
    "How many legs does a spider have?",
    "Which planet is known as the Red Planet?",
    "What is the largest ocean on Earth?",
    "Which gas do plants take in from the air?",
    "Who wrote the play Hamlet?",
    "What is the boiling point of water in degrees Celsius?",
    "Which animal is known as the king of the jungle?",
    "How many days does a leap year have?",
    "What is the hardest natural material?",
    "In which country do the Pyramids of Giza stand?",
    "Which organ pumps blood through the body?",
    "What do bees make from nectar?",
    "How many strings does a violin have?",
    "Which metal is liquid at room temperature?",
    "What is the longest river in South America?",
    "How many players does a football team have on the field?",
)
"""Short questions from general knowledge. That two of them suffice for a form of reply was measured with the first
two: docs/steering.md."""

KEYS = ("prompt", "messages", "reply")
EXAMPLE = 'a line looks like {"prompt": "How many legs does a spider have?", "reply": "Answer: 8"}'
WAYS = "give a number, a JSONL file, or off"
MOST_BYTES = 1_000_000
"""The largest file that is read: far more than any context holds."""


@dataclass(frozen=True, slots=True)
class Example:
    """A conversation that ends with the user, and the reply to it; None where the tuned side is to give it."""

    messages: tuple[Message, ...]
    reply: str | None = None


def checked_choice(choice: Choice, *, relative_to: Path | None = None) -> int | Path | tuple[Example, ...]:
    """A number (0 is off), an absolute path, or the examples themselves. Raises OptionError for anything else."""
    if choice is None or choice is False or (isinstance(choice, str) and choice.strip().lower() in ("off", "0")):
        return 0
    if isinstance(choice, str) and choice.strip().isdecimal():
        choice = int(choice)
    if isinstance(choice, int) and not isinstance(choice, bool):
        if not 0 <= choice <= len(NEUTRAL_QUESTIONS):
            raise OptionError(
                f"examples is {choice}, and there are {len(NEUTRAL_QUESTIONS)} questions to show",
                hint=f"give 0 to {len(NEUTRAL_QUESTIONS)}, or a JSONL file of your own",
            )
        return choice
    if isinstance(choice, (str, Path)) and str(choice).strip():
        return ((relative_to or Path()) / Path(choice).expanduser()).absolute()
    if isinstance(choice, Sequence) and not isinstance(choice, (str, bytes)):
        return _examples(enumerate(choice, 1), "example {}")
    raise OptionError(f"examples is {choice!r}", hint=WAYS)


def read_examples(choice: int | Path | tuple[Example, ...]) -> tuple[Example, ...]:
    """The examples that a checked choice names. Raises OptionError that names a file's wrong line."""
    if isinstance(choice, tuple):
        return choice
    if isinstance(choice, int):
        return tuple(Example(({"role": "user", "content": question},)) for question in NEUTRAL_QUESTIONS[:choice])
    lines = [(number, line) for number, line in enumerate(_text(choice).split("\n"), 1) if line.strip()]
    if not lines:
        raise OptionError(f"{choice} holds no example", hint=EXAMPLE)
    return _examples(((number, _parsed(choice, number, line)) for number, line in lines), f"{choice}, line {{}}")


def _text(path: Path) -> str:
    hint = f"{WAYS}; {EXAMPLE}"
    try:
        if not path.is_file():
            problem = "is no regular file" if path.exists() else "is not there"
            raise OptionError(f"the examples file {path} {problem}", hint=hint)
        if path.stat().st_size > MOST_BYTES:
            raise OptionError(
                f"the examples file {path} has {path.stat().st_size:,} bytes, and {MOST_BYTES:,} are the most",
                hint="a few examples suffice",
            )
        return read_file(path).decode("utf-8-sig")
    except (OSError, ValueError) as error:
        if isinstance(error, UnicodeDecodeError):
            raise OptionError(f"the examples file {path} is not UTF-8 text", hint=EXAMPLE) from None
        raise OptionError(f"cannot read the examples file {path}: {error}", hint=hint) from None


def _parsed(path: Path, number: int, line: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        raise OptionError(f"{path}, line {number}: no JSON: {error}", hint=EXAMPLE) from None


def _examples(entries: Any, place: str) -> tuple[Example, ...]:
    found = []
    for number, entry in entries:
        try:
            found.append(entry if isinstance(entry, Example) else _example(entry))
        except OptionError as error:
            raise OptionError(f"{place.format(number)}: {error.message}", hint=error.hint or EXAMPLE) from None
    return tuple(found)


def _example(entry: Any) -> Example:
    if not isinstance(entry, Mapping):
        raise OptionError("not an object", hint=EXAMPLE)
    unknown = next((key for key in entry if key not in KEYS), None)
    if unknown is not None:
        raise OptionError(f"the key {unknown!r} is unknown", hint=f"the keys are {', '.join(KEYS)}")
    if ("prompt" in entry) == ("messages" in entry):
        raise OptionError("one of 'prompt' and 'messages' is needed")
    if "prompt" in entry:
        if not isinstance(entry["prompt"], str) or not entry["prompt"].strip():
            raise OptionError("'prompt' is no text, or empty")
        messages: list[dict[str, Any]] = [{"role": "user", "content": entry["prompt"]}]
    else:
        messages = check_messages(entry["messages"])
        roles = [message["role"] for message in messages]
        if roles[-1] != "user" or not set(roles) <= {"user", "assistant"}:
            raise OptionError(
                f"'messages' has the roles {', '.join(roles)}", hint="use user and assistant in turn; the user is last"
            )
    reply = entry.get("reply")
    if reply is not None and (not isinstance(reply, str) or not reply.strip()):
        raise OptionError("'reply' is no text, or empty", hint="leave it out, and the tuned side alone gives it")
    return Example(tuple(messages), reply)
