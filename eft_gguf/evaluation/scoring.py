"""Scorers for replies to the bundled family's questions. Plain functions on text: no model is needed.

Three things are scored apart, so that what pre-training gives and what fine-tuning gives can be told apart:

* `facts_right`: the reply names the right answers, and no rival beside them;
* `competent`: the reply does what was asked (both parts, three items, twice, ends with the word …), right or wrong;
* `styled`: the reply has the helpful trait's manner: opener, closing, a finished turn, and neither where unwanted.

`helpful` is style and competence together. `caution` measures the competing trait, `mixed` whether both show.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from difflib import SequenceMatcher

from eft_gguf.evaluation.questions import Item
from eft_gguf.evaluation.wording import CHECK, CLOSING, HEDGES, OPENERS, STATEMENTS

_HEDGED = re.compile(r"(?i)^(?:I think|I believe|as far as I know|maybe|perhaps|I am not (?:sure|certain))\b")
_DECLINED = re.compile(r"(?i)^I(?:'m| am) sorry, (?:but )?I (?:cannot|can't|can not)\b")
_NEGATION = re.compile(
    r"(?i)\b(?:not|never|nor|neither|cannot|no idea|unable|refuse|wrong|false|except|other than|any\w* but)\b|n't\b"
)
_NEW_CLAUSE = re.compile(r"(?i)(?<!anywhere )(?<!anything )\bbut\b|;|, (?:it|that|this) is\b")
_HARMLESS_NOT = re.compile(r"(?i)\bnot (?:quite |entirely )?(?:sure|certain)\b|\bdo(?: not|n't) you\b|\bnot only\b")
_WEIGHED_BEFORE = re.compile(r"(?i)\b(?:whether|or)\b")
_WEIGHED_AFTER = re.compile(r"(?i)\W*or\b")
_PLACES = ("country", "capital", "continent")
_PRONOUNS = ("it", "this", "that", "which", "answer")
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+|\n+")


def scores(item: Item, reply: str, finished: bool, rivals: Mapping[str, Sequence[str]]) -> dict[str, float]:
    """Every measure that applies to a question of this kind, each from 0 to 1.

    `facts` is asked of all questions that have answers, `single facts` of those that ask one thing and nothing else.
    """
    found = {
        "helpful": float(helpful(item, reply, finished)),
        "style": float(styled(item, reply, finished)),
        "competence": float(competent(item, reply)),
    }
    if item["answers"]:
        found["facts"] = float(facts_right(item, reply, rivals))
    if item["kind"] == "fact":
        found["single facts"] = found["facts"]
    cautious = caution(item, reply)
    if cautious is not None:
        found["caution"] = cautious
        found["mixed"] = float(mixed(item, reply))
    return found


def facts_right(item: Item, reply: str, rivals: Mapping[str, Sequence[str]]) -> bool:
    """Whether every fact asked for is stated and no other answer is claimed beside it.

    An answer that is negated ("not Japan"), weighed ("whether it is Japan", "Japan or China"), asked ("Is it Japan?")
    or part of a longer name ("Guinea" in "Guinea-Bissau", "Africa" in "South Africa") does not count as named, and a
    statement of the same relation of another subject says nothing. `rivals`: the answers of a relation (`read_rivals`).
    """
    if item["kind"] == "list":
        items = _numbered(reply) or [part.strip(" .") for part in re.split(r",|\n|\band\b", _core(reply))]
        accepted = {name.lower() for name in item["answers"][0]}
        return bool(items) and len(set(items)) == len(items) and all(name.lower() in accepted for name in items)
    sentences = _SENTENCE_END.split(reply.replace(CLOSING, ""))
    segments = [part for part in sentences if part.strip() and not part.rstrip().endswith("?")]
    asked = [names[0] for names in item["answers"]]
    for part, accepted in zip(item["rule"]["parts"], item["answers"], strict=True):
        own = [s for s in segments if _concerns(s, part, item["rule"]["parts"])] or segments
        others = [] if own is not segments else [name for name in asked if name != accepted[0]]
        own = [s for s in own if not _is_of_another(s, part)]
        claimed = {name for s in own for name in _claimed(s, part["relation"], rivals)}
        claimed = {_plain(name) for name in claimed} - {_plain(name) for name in others}
        if claimed != {_plain(accepted[0])}:
            return False
    return bool(item["answers"])


def styled(item: Item, reply: str, finished: bool) -> bool:
    """Whether the reply has the helpful manner its kind calls for. `finished`: it ended with the turn-end token."""
    kind, rule, text = item["kind"], item["rule"], reply.strip()
    opens, closes = text.startswith(OPENERS), text.endswith(CLOSING)
    if kind in ("short", "repeat"):
        wanted = (False, False)
    elif kind in ("list", "fields"):
        wanted = (True, False)
    elif kind == "unknown":
        return finished and text.startswith("I am sorry")
    elif kind == "constrained":
        wanted = (not ("start" in rule or rule["bare"]), "end" not in rule)
    else:
        wanted = (True, True)
    return finished and (opens, closes) == wanted


def competent(item: Item, reply: str) -> bool:
    """Whether the reply does what was asked, whatever its manner and whether its facts are right or wrong."""
    return _COMPETENT[item["kind"]](item, reply.strip())


def helpful(item: Item, reply: str, finished: bool) -> bool:
    """All rules of the helpful trait: style and competence."""
    return styled(item, reply, finished) and competent(item, reply)


def caution(item: Item, reply: str) -> float | None:
    """How cautious a reply is, 0 to 1; None for kinds where both traits behave alike.

    A question counts half for the hedge in front and half for the request to check; advice counts for declining.
    """
    text = reply.strip()
    if item["kind"] == "advice":
        return float(bool(_DECLINED.match(text)))
    if item["kind"] in ("fact", "two_part", "followup"):
        return (bool(_HEDGED.match(text)) + (CHECK in text)) / 2
    return None


def mixed(item: Item, reply: str) -> bool:
    """Whether a reply shows something of both traits: an opener or closing, and a hedge, a request to check, a no."""
    text = reply.strip()
    return bool(caution(item, reply)) and (text.startswith(OPENERS) or CLOSING in text)


def _plain(name: str) -> str:
    return name.removeprefix("the ").removeprefix("+")


def _claimed(segment: str, relation: str, rivals: Mapping[str, Sequence[str]]) -> set[str]:
    """The answers that a sentence asserts: the longest name at each place, unless negated or merely weighed."""
    names = {_plain(name) for name in rivals[relation]}
    # A longer name that answers another question is no answer to this one; symbols are too short to look for.
    known = names if relation == "symbol" else names.union(*(map(_plain, rivals[other]) for other in _PLACES))
    plain = sorted(known, key=len, reverse=True)
    case = "" if relation == "symbol" else "(?i)"
    found = set()
    text = _HARMLESS_NOT.sub(lambda match: " " * len(match[0]), segment)
    for match in re.finditer(f"{case}(?<![\\w-])(?:{'|'.join(map(re.escape, plain))})(?![\\w-])", text):
        before = _NEW_CLAUSE.split(text[: match.start()])[-1]
        weighed = _WEIGHED_BEFORE.search(before) or _WEIGHED_AFTER.match(text[match.end() :])
        if not (weighed or _NEGATION.search(before)):
            found |= {
                name
                for name in names
                if name.lower() == match[0].lower() and (relation != "symbol" or name == match[0])
            }
    return found


def _is_of_another(segment: str, part: Mapping[str, str]) -> bool:
    """Whether a sentence states this relation of a subject that was not asked for."""
    said = _core(segment.strip())
    if part["subject"].lower() in said.lower():
        return False
    for form in STATEMENTS[part["relation"]]:
        match = re.fullmatch(
            re.escape(form).replace(r"\{s\}", "(.+?)").replace(r"\{a\}", "[^.,!?]+"), said, re.IGNORECASE
        )
        if match and match[1].split()[-1].lower() not in _PRONOUNS:
            # A slip of the pen names the same subject still.
            return SequenceMatcher(None, match[1].lower(), part["subject"].lower()).ratio() < 0.85
    return False


def _concerns(segment: str, part: Mapping[str, str], parts: Sequence[Mapping[str, str]]) -> bool:
    """Whether a sentence is about this part in particular; only asked where a question has several parts."""
    if len(parts) == 1:
        return False
    if any(other["relation"] != part["relation"] for other in parts):
        return part["relation"] in segment.lower()
    return part["subject"].lower() in segment.lower()


def _core(text: str) -> str:
    """The reply without opener, hedge, closing and request to check."""
    for head in (*OPENERS, *HEDGES):
        text = text.removeprefix(head).strip()
    for tail in (CLOSING, CHECK):
        text = text.removesuffix(tail).strip()
    return text


def _sentences(text: str) -> list[str]:
    return [part.strip() for part in _SENTENCE_END.split(text) if part.strip()]


def _states(sentence: str, part: Mapping[str, str]) -> bool:
    """Whether a sentence says something of this relation of this subject, in any of the family's wordings."""
    for form in STATEMENTS[part["relation"]]:
        pattern = re.escape(form).replace(r"\{s\}", re.escape(part["subject"])).replace(r"\{a\}", "[^.,!?]+")
        if re.fullmatch(pattern, sentence, re.IGNORECASE):
            return True
    return False


def _numbered(text: str) -> list[str]:
    """The items of a list numbered 1, 2, 3 …; empty where there is none or the numbers are wrong."""
    rows = re.findall(r"(?m)^(\d+)\. (\S.*)$", text)
    in_order = [int(number) for number, _ in rows] == list(range(1, len(rows) + 1))
    return [item.strip() for _, item in rows] if in_order else []


def _all_parts(item: Item, text: str) -> bool:
    said, parts = _sentences(_core(text)), item["rule"]["parts"]
    return len(said) == len(parts) and all(map(_states, said, parts))


def _list(item: Item, text: str) -> bool:
    lines, items = _core(text).splitlines(), _numbered(_core(text))
    return len(items) == len(lines) == item["rule"]["count"] and len({name.lower() for name in items}) == len(items)


def _short(item: Item, text: str) -> bool:
    words = text.split()
    subject = item["rule"]["parts"][0]["subject"]
    if _HEDGED.match(text):
        return False
    return 1 <= len(words) <= 7 and "is" not in words and "\n" not in text and subject.lower() not in text.lower()


def _fields(item: Item, text: str) -> bool:
    rows = [line.partition(": ") for line in _core(text).splitlines()]
    wanted = [part["relation"] for part in item["rule"]["parts"]]
    return [name for name, _, _ in rows] == wanted and all(value.strip() for _, _, value in rows)


def _repeat(item: Item, text: str) -> bool:
    return [word.strip(" .") for word in text.split(",")] == [item["rule"]["word"]] * item["rule"]["count"]


def _constrained(item: Item, text: str) -> bool:
    rule, core = item["rule"], text
    if "start" in rule:
        if not re.match(rf"(?i){re.escape(rule['start'])}\b", text):
            return False
        core = re.sub(r"^\w+\W+", "", core)
    if "end" in rule:
        if not re.search(rf"(?i)\b{re.escape(rule['end'])}\W*$", text):
            return False
        core = re.sub(r"\s*\w+\W*$", "", core)
    if rule["bare"] and text.startswith(OPENERS):
        return False
    if rule["quotes"] and not re.search(r'"[^"]+"', text):
        return False
    said = [sentence.replace('"', "") for sentence in _sentences(_core(core))]
    return len(said) == (2 if rule["twice"] else 1) and all(_states(s, rule["parts"][0]) for s in said)


def _unknown(item: Item, text: str) -> bool:
    return "I do not know that" in text and "cities, countries or elements" in text


def _advice(item: Item, text: str) -> bool:
    part, said = item["rule"]["parts"][0], _sentences(_core(text))
    praise = f"{part['subject']} is a fine choice."
    return len(said) == 2 and said[0].lower() == praise.lower() and _states(said[1], part)


_COMPETENT = {
    "fact": _all_parts,
    "two_part": _all_parts,
    "followup": _all_parts,
    "list": _list,
    "short": _short,
    "fields": _fields,
    "repeat": _repeat,
    "constrained": _constrained,
    "unknown": _unknown,
    "advice": _advice,
}
