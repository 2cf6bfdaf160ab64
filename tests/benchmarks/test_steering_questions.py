"""The questions of benchmarks/steering_study.py are fair: fresh, all different, and answered by none of their words."""

import json
from collections import Counter
from pathlib import Path

from eft_gguf.evaluation.cases import read_cases
from eft_gguf.evaluation.marks import names_one

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def test_the_questions_of_the_steering_study():
    cases = read_cases(BENCHMARKS / "steering_questions.jsonl")
    questions = [case.messages[0]["content"] for case in cases]
    earlier = [json.loads(line)["question"] for line in (BENCHMARKS / "questions.jsonl").read_text().splitlines()]
    assert len(set(questions)) == 200
    assert not set(questions) & set(earlier)
    assert Counter(case.split for case in cases) == {"choose": 100, "report": 100}
    for case, question in zip(cases, questions, strict=True):
        assert case.answers and not any(names_one(question, accepted) for accepted in case.answers), question
        # Nor by what the form itself says.
        assert not any(names_one("Answer: Confidence: low medium high", accepted) for accepted in case.answers)
