"""What a reply to one of the user's prompts is worth: right or wrong, in the form asked for, and how repetitive."""

from __future__ import annotations

import json
import re
import subprocess
import unicodedata
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from eft_gguf.errors import EFTError
from eft_gguf.evaluation.cases import Case

GOOD = 0.5
"""From this accuracy on a reply counts as right: only a judge gives marks between 0 and 1."""
GRAM = 4


@dataclass(frozen=True, slots=True)
class Marks:
    """accuracy: 0 to 1, the lower one of answers and judge.  form: as asked for.  None where it is not scored."""

    accuracy: float | None
    form: bool | None

    @property
    def success(self) -> bool | None:
        """Right, and in the form; what of both is scored."""
        if self.accuracy is None and self.form is None:
            return None
        return (self.accuracy is None or self.accuracy >= GOOD) and self.form is not False


def mark(case: Case, reply: str, finished: bool, *, timeout: float = 60.0) -> Marks:
    """finished: the reply ended by itself. What was cut off has no form. Raises EFTError where a judge fails."""
    marks = []
    if case.answers:
        marks.append(float(all(names_one(reply, accepted) for accepted in case.answers)))
    if case.judge:
        marks.append(ask_judge(case, reply, timeout=timeout))
    form = None
    if case.regex is not None or case.schema is not None:
        form = finished and has_form(case, reply)
    return Marks(min(marks, default=None), form)


def names_one(reply: str, accepted: Sequence[str]) -> bool:
    """Whether an accepted answer stands in the reply as a word of its own, accents and capitals aside.

    It is not told from what surrounds it: a reply that names every answer there is passes, and so does "not Lima".
    Where that matters, give a `regex` or a `judge`.
    """
    said = _plain(reply)
    return any(re.search(rf"(?<!\w){re.escape(_plain(answer))}(?!\w)", said) for answer in accepted)


def has_form(case: Case, reply: str) -> bool:
    """Whether a reply is as the prompt's `regex` and `schema` want it; space around it is no fault."""
    text = reply.strip()
    if case.regex is not None and case.regex.fullmatch(text) is None:
        return False
    if case.schema is None:
        return True
    import jsonschema

    try:
        jsonschema.validate(json.loads(text), case.schema)
    except (ValueError, RecursionError, jsonschema.ValidationError):
        return False
    return True


def ask_judge(case: Case, reply: str, *, timeout: float) -> float:
    """The mark that the prompt's judge gives a reply: a number from 0 to 1 on its standard output.

    The command gets {"messages": …, "reply": …} as JSON on standard input, and is run without a shell. Raises
    EFTError, with the prompt's line, where it cannot be run, fails, takes longer than `timeout` seconds or says else.
    """
    given = json.dumps({"messages": list(case.messages), "reply": reply}, ensure_ascii=False)
    where, hint = f"the judge of line {case.line}, {case.judge[0]},", "try it alone: it reads JSON and prints a number"
    try:
        done = subprocess.run(
            case.judge, input=given, capture_output=True, encoding="utf-8", errors="replace", timeout=timeout
        )
    except subprocess.TimeoutExpired:
        raise EFTError(f"{where} took more than {timeout:g} s", hint="pass a larger --judge-timeout") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise EFTError(f"{where} cannot be run: {reason}", hint="give the command's full path") from None
    if done.returncode != 0:
        said = done.stderr.strip().splitlines()
        raise EFTError(f"{where} ended with exit code {done.returncode}" + (f": {said[-1]}" if said else ""), hint=hint)
    try:
        value = float(done.stdout.strip())
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise EFTError(f"{where} printed {done.stdout.strip()[:60]!r}, which is no number from 0 to 1", hint=hint)
    return value


def repetition(tokens: Sequence[Hashable]) -> float:
    """The share of runs of 4 tokens that were there before: 0 for none, near 1 for a reply that goes round in circles.

    seq-rep-4 of Welleck et al., "Neural Text Generation with Unlikelihood Training", arXiv 1908.04319.
    """
    runs = [tuple(tokens[start : start + GRAM]) for start in range(len(tokens) - GRAM + 1)]
    return 1 - len(set(runs)) / len(runs) if runs else 0.0


def _plain(text: str) -> str:
    decomposed = unicodedata.normalize("NFKD", text.casefold())
    return "".join(character for character in decomposed if not unicodedata.combining(character))
