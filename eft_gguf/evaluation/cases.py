"""The user's own prompts, as the gate asks them: one JSON object a line.

What is asked is `question` or `prompt` (a text), or `messages` (a chat); `system` goes before a text. What is scored,
any of these together or none:

    answers   accepted answers, or a list of such lists where several facts are asked: each must be named
    regex     the form: the whole reply must match this regular expression
    schema    the form: the reply must be JSON that this JSON schema allows
    judge     a command that gives a mark from 0 to 1, see `marks.ask_judge`

`split` ("choose" or "report") fixes what a prompt is used for, and `id` is for the user.
"""

from __future__ import annotations

import json
import random
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eft_gguf.errors import EFTError, OptionError
from eft_gguf.models.chat import check_messages

TEXTS = ("question", "prompt")
KEYS = (*TEXTS, "messages", "system", "answers", "regex", "schema", "judge", "split", "id")
PARTS = ("choose", "report")
EXAMPLE = 'for example {"question": "What is the capital of Peru?", "answers": ["Lima"]}'


@dataclass(frozen=True, slots=True)
class Case:
    """A line of the file. answers: for each fact asked, what is accepted; empty where none is."""

    line: int
    messages: tuple[Mapping[str, str], ...]
    answers: tuple[tuple[str, ...], ...] = ()
    regex: re.Pattern[str] | None = None
    schema: Mapping[str, Any] | bool | None = None
    judge: tuple[str, ...] = ()
    split: str | None = None

    @property
    def is_scored(self) -> bool:
        """Whether the line says what a good reply is. A plain chat does not."""
        return bool(self.answers or self.judge or self.regex is not None or self.schema is not None)


def read_cases(path: Path, *, regex: str | None = None) -> list[Case]:
    """The prompts of a file, in its order. regex: the form wanted where a line has neither `regex` nor `schema`.

    Raises OptionError that names the line.
    """
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except OSError as error:
        raise OptionError(f"cannot read {path}: {error.strerror}", hint=EXAMPLE) from None
    except UnicodeDecodeError:
        raise OptionError(f"{path} is not UTF-8 text", hint="write one JSON object a line") from None
    default = None if regex is None else _pattern(regex, "the regular expression")
    cases = []
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                cases.append(_case(line, number, default))
            except EFTError as error:
                raise OptionError(f"{path}, line {number}: {error.message}", hint=error.hint or EXAMPLE) from None
    if not cases:
        raise OptionError(f"{path} holds no prompt", hint=EXAMPLE)
    return cases


def parted(cases: Sequence[Case], seed: int, limit: int | None = None) -> tuple[list[Case], list[Case]]:
    """Those to choose settings on, and those to report on. Where the file does not say, the seed draws two halves.

    limit: of each of the two only half as many, drawn by the seed.
    """
    random_order = random.Random(seed).sample(list(cases), len(cases))
    drawn = [case for case in random_order if case.split is None]
    parts = []
    for part, own in (("choose", drawn[: len(drawn) // 2]), ("report", drawn[len(drawn) // 2 :])):
        fixed = [case for case in random_order if case.split == part]
        parts.append(sorted((fixed + own)[: None if limit is None else limit // 2], key=lambda case: case.line))
    return parts[0], parts[1]


def _case(text: str, number: int, default: re.Pattern[str] | None) -> Case:
    try:
        entry = json.loads(text)
    except ValueError as error:
        raise OptionError(f"no JSON: {error}") from None
    return case_of(entry, number, default)


def case_of(entry: Any, number: int, default: re.Pattern[str] | None = None) -> Case:
    """A line's object as a case. default: the form where it names none. Raises OptionError."""
    if not isinstance(entry, dict):
        raise OptionError("not an object")
    unknown = next((key for key in entry if key not in KEYS), None)
    if unknown is not None:
        raise OptionError(f"the key {unknown!r} is unknown", hint=f"the keys are {', '.join(KEYS)}")
    if entry.get("split") not in (None, *PARTS):
        raise OptionError(f"'split' is {entry['split']!r}", hint=f"it must be {' or '.join(PARTS)}")
    regex = _pattern(entry["regex"], "'regex'") if "regex" in entry else None
    schema = _schema(entry["schema"]) if "schema" in entry else None
    return Case(
        line=number,
        messages=tuple(_messages(entry)),
        answers=_answers(entry.get("answers", [])),
        regex=default if regex is None and schema is None else regex,
        schema=schema,
        judge=_command(entry["judge"]) if "judge" in entry else (),
        split=entry.get("split"),
    )


def _messages(entry: Mapping[str, Any]) -> list[dict[str, str]]:
    given = [key for key in (*TEXTS, "messages") if key in entry]
    if len(given) != 1:
        found = " and ".join(map(repr, given)) if given else "none of them"
        raise OptionError(f"one of 'question', 'prompt' and 'messages' is needed, and there is {found}")
    if given == ["messages"]:
        if "system" in entry:
            raise OptionError("'system' and 'messages' exclude each other", hint="make it the first message")
        return check_messages(entry["messages"])
    texts = {"system": entry.get("system"), given[0]: entry[given[0]]}
    for key, text in texts.items():
        if text is not None and (not isinstance(text, str) or not text.strip()):
            raise OptionError(f"{key!r} is no text, or empty")
    roles = ("system", "user")
    return [{"role": role, "content": text} for role, text in zip(roles, texts.values(), strict=True) if text]


def _answers(given: Any) -> tuple[tuple[str, ...], ...]:
    facts = given if isinstance(given, list) else [None]
    if facts and all(isinstance(answer, str) for answer in facts):
        facts = [facts]
    for accepted in facts:
        if (
            not isinstance(accepted, list)
            or not accepted
            or not all(isinstance(a, str) and a.strip() for a in accepted)
        ):
            raise OptionError("'answers' must be a list of accepted texts, or a list of such lists")
    return tuple(map(tuple, facts))


def _pattern(text: Any, what: str) -> re.Pattern[str]:
    if not isinstance(text, str):
        raise OptionError(f"{what} is no text")
    try:
        return re.compile(text)
    except re.error as error:
        raise OptionError(
            f"{what} cannot be read: {error}", hint=r"Python's syntax, for example Answer: .*\nDone"
        ) from None


def _schema(given: Any) -> Mapping[str, Any] | bool:
    try:
        import jsonschema
    except ImportError:
        raise OptionError("'schema' needs jsonschema, which is not installed", hint="pip install jsonschema") from None
    if not isinstance(given, (dict, bool)):
        raise OptionError("'schema' must be an object")
    try:
        jsonschema.validators.validator_for(given, jsonschema.Draft202012Validator).check_schema(given)
    except jsonschema.SchemaError as error:
        raise OptionError(f"'schema' is no JSON schema: {error.message}") from None
    return given


def _command(given: Any) -> tuple[str, ...]:
    try:
        words = shlex.split(given) if isinstance(given, str) else given
    except ValueError as error:
        raise OptionError(f"'judge' cannot be read as a command: {error}") from None
    if not isinstance(words, list) or not words or not all(isinstance(word, str) for word in words):
        raise OptionError("'judge' must be a command", hint='for example "python judge.py", or ["python", "judge.py"]')
    return tuple(words)
