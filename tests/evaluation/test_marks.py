"""Marks for replies, worked out by hand; judges are small programs."""

from __future__ import annotations

import re
import sys

import pytest

from eft_gguf import EFTError
from eft_gguf.evaluation.cases import Case
from eft_gguf.evaluation.marks import Marks, mark, names_one, repetition

ASK = ({"role": "user", "content": "Capital of Peru?"},)


def judged(code: str) -> Case:
    return Case(7, ASK, judge=(sys.executable, "-c", code))


@pytest.mark.parametrize(
    ("reply", "right"),
    [
        ("It is Lima.", True),
        ("LIMA", True),
        ("Limassol", False),
        ("Climate", False),
        ("It is São Tomé!", True),
        ("sao tome", True),
        ("C++ it is", True),
        ("", False),
    ],
)
def test_an_answer_counts_as_a_word_of_its_own(reply: str, right: bool) -> None:
    assert names_one(reply, ("Lima", "São Tomé", "C++")) is right


def test_every_fact_that_was_asked_for_must_be_named() -> None:
    case = Case(1, ASK, answers=(("Lima",), ("Quito", "San Francisco de Quito")))
    assert mark(case, "Lima and Quito", True).accuracy == 1
    assert mark(case, "Lima, and nothing else", True).accuracy == 0


def test_form_by_regular_expression() -> None:
    case = Case(1, ASK, regex=re.compile(r"Answer: \S+\nSure: (yes|no)"))
    assert mark(case, "Answer: Lima\nSure: yes", True) == Marks(None, True)
    assert mark(case, " Answer: Lima\nSure: yes\n", True).form is True
    assert mark(case, "Well. Answer: Lima\nSure: yes", True).form is False
    # What was cut off might have gone on to break the form.
    assert mark(case, "Answer: Lima\nSure: yes", False).form is False


def test_form_by_schema() -> None:
    case = Case(1, ASK, schema={"type": "object", "required": ["name"], "properties": {"name": {"type": "string"}}})
    assert mark(case, '{"name": "Lima"}', True).form is True
    assert mark(case, '{"name": 3}', True).form is False
    assert mark(case, "{}", True).form is False
    assert mark(case, "Lima", True).form is False


@pytest.mark.parametrize(
    ("marks", "success"),
    [
        (Marks(1.0, None), True),
        (Marks(None, False), False),
        (Marks(1.0, False), False),
        (Marks(0.0, True), False),
        (Marks(0.5, True), True),
        (Marks(0.4, None), False),
        (Marks(None, None), None),
    ],
)
def test_success_is_right_and_in_the_form(marks: Marks, success: bool | None) -> None:
    assert marks.success is success


def test_a_judge_reads_json_and_gives_a_mark() -> None:
    code = (
        "import json, sys; g = json.load(sys.stdin); print(len(g['reply']) / 10 * (g['messages'][0]['role'] == 'user'))"
    )
    assert mark(judged(code), "Limá", True).accuracy == 0.4
    both = Case(7, ASK, answers=(("Lima",),), judge=judged("print(0.8)").judge)
    assert mark(both, "Lima", True).accuracy == 0.8
    assert mark(both, "Quito", True).accuracy == 0


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("import sys; sys.exit('no key')", "ended with exit code 1: no key"),
        ("print('good')", "printed 'good', which is no number from 0 to 1"),
        ("print(1.5)", "printed '1.5'"),
        ("print('nan')", "printed 'nan'"),
        ("pass", "printed ''"),
        ("import time; time.sleep(9)", "took more than 0.5 s"),
    ],
)
def test_a_judge_that_fails_is_named_by_its_line(code: str, message: str) -> None:
    with pytest.raises(EFTError, match="the judge of line 7") as error:
        mark(judged(code), "Lima", True, timeout=0.5 if "sleep" in code else 20)
    assert message in error.value.message and error.value.hint


def test_a_judge_is_no_line_for_a_shell() -> None:
    with pytest.raises(EFTError, match="cannot be run: No such file"):
        mark(Case(7, ASK, judge=("echo 1 | cat",)), "Lima", True)


def test_repetition() -> None:
    assert repetition("abc") == 0
    assert repetition("abcdefgh") == 0
    # Of the five runs abab baba abab baba abab two are new.
    assert repetition("abababab") == pytest.approx(3 / 5)
