"""The questions to ask: those of the bundled family, or a file of the same format.

One JSON object a line: `id`, `kind`, `messages` (role and content), `answers` (for every fact asked, the accepted
names; for a list, one list of all accepted items) and `rule` (what the scorer of the kind needs).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from eft_gguf.errors import OptionError
from eft_gguf.evaluation.wording import STATEMENTS

Item = Mapping[str, Any]

FOLDER = Path(__file__).parent.parent / "bundled"
QUESTIONS = FOLDER / "questions.jsonl"
"""1,640 questions about facts that the bundled family has met in pre-training and in no fine-tuning example."""
ANSWERS = FOLDER / "answers.json"

RULES: dict[str, dict[str, type]] = {
    "fact": {},
    "two_part": {},
    "followup": {},
    "list": {"count": int},
    "short": {},
    "fields": {},
    "repeat": {"word": str, "count": int},
    "constrained": {"twice": bool, "quotes": bool, "bare": bool},
    "unknown": {},
    "advice": {},
}
"""Every kind of question that there is a scorer for, and what its rule must hold besides `parts`."""


def read_questions(path: Path = QUESTIONS) -> list[dict[str, Any]]:
    """The questions of a file, in its order. Raises OptionError for a line that is no question of this format."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise OptionError(f"cannot read {path}: {error.strerror}", hint="name a file of questions") from None
    except UnicodeDecodeError:
        raise OptionError(
            f"{path} is not UTF-8 text", hint="name a file of questions, one JSON object a line"
        ) from None
    items = [_question(line, f"{path}, line {number}") for number, line in enumerate(lines, 1) if line.strip()]
    if not items:
        raise OptionError(f"{path} holds no question", hint="write one JSON object a line")
    return items


def read_rivals(items: Sequence[Item] = ()) -> dict[str, list[str]]:
    """Relation → every answer it has: the rivals of a right one. Those of `items` are added to the bundled family's."""
    rivals: dict[str, list[str]] = json.loads(ANSWERS.read_text(encoding="utf-8"))
    for item in items:
        if item["kind"] != "list":
            for part, names in zip(item["rule"]["parts"], item["answers"], strict=True):
                known = rivals[part["relation"]]
                known += [name for name in names[:1] if name not in known]
    return rivals


def _question(line: str, place: str) -> dict[str, Any]:
    """A line as a question, with everything that its scorer will look up checked."""
    try:
        item = json.loads(line)
    except ValueError as error:
        raise OptionError(f"{place} is no JSON: {error}", hint="write one JSON object a line") from None
    wrong = _wrong(item)
    if wrong:
        raise OptionError(f"{place}: {wrong}", hint=f"see {QUESTIONS.name} of the bundled family for examples")
    return dict(item)


def _wrong(item: Any) -> str:
    """What keeps a value from being a question; empty if nothing does."""
    if not isinstance(item, dict):
        return "not an object"
    fields: dict[str, type] = {"id": str, "kind": str, "messages": list, "answers": list, "rule": dict}
    for key, wanted in fields.items():
        if not isinstance(item.get(key), wanted):
            return f"{key!r} is missing, or no {_name(wanted)}"
    kind, rule, answers = item["kind"], item["rule"], item["answers"]
    if kind not in RULES:
        return f"there is no scorer for the kind {kind!r}; the kinds are {', '.join(RULES)}"
    if not item["messages"] or not all(_is_message(message) for message in item["messages"]):
        return "'messages' must be a list of objects with a role and a content, and not empty"
    if not all(isinstance(names, list) and names and all(isinstance(n, str) and n for n in names) for names in answers):
        return "'answers' must be a list of lists of names"
    for key, wanted in RULES[kind].items():
        if type(rule.get(key)) is not wanted:
            return f"the rule of a question of the kind {kind} needs {key!r}, a {_name(wanted)}"
    if kind == "list":
        return "" if len(answers) == 1 else "a list question has one list of accepted items as its answers"
    return _wrong_parts(kind, rule.get("parts"), len(answers))


def _wrong_parts(kind: str, parts: Any, answers: int) -> str:
    if not isinstance(parts, list) or len(parts) != answers:
        return f"the rule's 'parts' must be a list as long as the answers, {answers}"
    for part in parts:
        if not isinstance(part, dict) or not isinstance(part.get("subject"), str):
            return "each part needs a 'subject'"
        if part.get("relation") not in STATEMENTS:
            known = ", ".join(STATEMENTS)
            return f"there is no scorer for the relation {part.get('relation')!r}; the relations are {known}"
    if not parts and kind not in ("repeat", "unknown"):
        return f"a question of the kind {kind} needs at least one part"
    return ""


def _is_message(message: Any) -> bool:
    return isinstance(message, dict) and all(isinstance(message.get(key), str) for key in ("role", "content"))


def _name(kind: type) -> str:
    return {str: "text", list: "list", dict: "object", int: "whole number", bool: "true or false"}[kind]
