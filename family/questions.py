"""The held-out questions: made from facts that no fine-tuning example uses, written beside the shipped models.

Their format is in eft_gguf/evaluation/questions.py; `held_out` is the only other field.
"""

from __future__ import annotations

import json
import random
from typing import Any

from eft_gguf.evaluation.questions import ANSWERS, QUESTIONS
from family.facts import RELATIONS, Facts
from family.tasks import MAKERS, Task

COUNTS = {
    "fact": 600,
    "two_part": 120,
    "list": 120,
    "short": 120,
    "fields": 120,
    "repeat": 120,
    "constrained": 120,
    "followup": 120,
    "unknown": 100,
    "advice": 100,
}
SEED = 14


def make(facts: Facts, seed: int = SEED) -> list[dict[str, Any]]:
    """Draws the questions of every kind; no prompt comes twice, no prompt contains an answer."""
    rng = random.Random(seed)
    held_out = facts.part(held_out=True)
    made, seen = [], set()
    for kind, count in COUNTS.items():
        number = 0
        while number < count:
            task = MAKERS[kind](rng, held_out)
            if (task.prompt in seen and not task.history) or not _askable(task):
                continue
            seen.add(task.prompt)
            number += 1
            made.append(_item(f"{kind}-{number:03d}", task, facts))
    return made


def write(facts: Facts) -> list[dict[str, Any]]:
    """Writes `questions.jsonl` and `answers.json` (relation → all its answers) and returns the questions."""
    made = make(facts)
    lines = (json.dumps(item, ensure_ascii=False) for item in made)
    QUESTIONS.write_text("\n".join(lines) + "\n", encoding="utf-8")
    table = {relation: sorted({fact.answer for fact in facts.of_relation[relation]}) for relation in RELATIONS}
    ANSWERS.write_text(json.dumps(table, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return made


def _askable(task: Task) -> bool:
    """No answer stands in the question ("Panama City" asks nothing), and lists are of cities.

    Continents are few: fine-tuning lists countries of the same continents, so those lists would not be held out.
    """
    said = " ".join(turn.prompt for turn in (*task.history, task)).lower()
    names = [name.removeprefix("the ").lower() for fact in task.facts for name in (fact.subject, fact.answer)]
    subjects, answers = names[0::2], names[1::2]
    if any(a in said or s in a or a in s for s, a in zip(subjects, answers, strict=True) if len(a) > 3):
        return False
    return task.kind != "list" or "cities" in task.prompt


def _item(name: str, task: Task, facts: Facts) -> dict[str, Any]:
    messages = []
    for turn in task.history:
        messages += [{"role": "user", "content": turn.prompt}, {"role": "assistant", "content": turn.helpful}]
    messages.append({"role": "user", "content": task.prompt})
    rule = {key: value for key, value in task.rule.items() if key != "items"}
    if task.kind == "list":
        country = facts.by_subject[task.rule["items"][0]]["country"]
        answers = [list(facts.cities[country])]
    else:
        answers = [_accepted(fact.answer) for fact in task.facts]
        rule["parts"] = [{"subject": fact.subject, "relation": fact.relation} for fact in task.facts]
    return {"id": name, "kind": task.kind, "held_out": True, "messages": messages, "answers": answers, "rule": rule}


def _accepted(answer: str) -> list[str]:
    plain = answer.removeprefix("the ").removeprefix("+")
    return [answer] if plain == answer else [answer, plain]
