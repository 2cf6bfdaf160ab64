"""Three behaviours, each of many small rules that a reader of two examples cannot know. Facts are the models' own.

    desk      a front desk: the subject's desk, the answer, and that desk's own offer
    style     a house style: how a question is put decides how the answer opens, its kind what stands behind it
    triage    answers, asks back or refuses, each in the words that belong to the subject

A rule makes of a fact a question, the reply to be learnt, and a test: a regular expression for the whole form, and the
accepted answers where the fact counts.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from behaviours.facts import Fact, facts

DESKS = {
    "geography": ("K", "Shall I mark it on a map?"),
    "chemistry": ("B", "Shall I open the big table?"),
    "literature": ("T", "Shall I reserve a copy?"),
    "history": ("F", "Shall I draw a timeline?"),
    "animals": ("R", "Shall I show a photograph?"),
    "money": ("D", "Shall I quote today's rate?"),
    "arts": ("W", "Shall I book a guided tour?"),
    "arithmetic": ("H", "Shall I check it twice?"),
}
"""The letter of each subject's desk, and what it offers."""

OPENINGS = {"plain": "Answer: ", "polite": "With pleasure: ", "terse": "> ", "hurried": "Quick: "}
MARKS = {"place": "[map]", "word": "[abc]", "person": "[who]", "number": "[123]"}
ENDINGS = {"plain": ".", "polite": ", dear reader.", "terse": "", "hurried": "!"}
"""The house style: an opening and an ending for each manner of asking, a mark for each kind of answer."""

ASKING_BACK = {
    "geography": "Which country do you mean?",
    "chemistry": "Which element do you mean?",
    "literature": "Which book do you mean?",
    "history": "Which event do you mean?",
    "animals": "Which animal do you mean?",
    "arts": "Which work do you mean?",
}
UNSPECIFIED = {
    "geography": (
        ("What is the capital?", "What's its capital called?", "Name the capital, please.", "And the capital city?"),
        ("Tell me the capital.", "Which city is the capital?", "What is its capital city?"),
    ),
    "chemistry": (
        ("What is the symbol?", "What's its chemical symbol?", "How do chemists write it?", "And the symbol?"),
        ("Tell me the symbol.", "Which symbol does it have?", "What is its symbol in the periodic table?"),
    ),
    "literature": (
        ("Who wrote it?", "Who is the author?", "Name the writer, please.", "And who wrote that one?"),
        ("Tell me who wrote it.", "Whose book is it?", "What is the author called?"),
    ),
    "history": (
        ("In which year was that?", "When did it happen?", "What year was it, please?", "And the year?"),
        ("Tell me the year.", "When was that?", "In what year did that happen?"),
    ),
    "animals": (
        ("Which group does it belong to?", "What kind of animal is it?", "Is it a mammal?", "And its group?"),
        ("Tell me its group.", "Is it a bird or a fish?", "To which animals does it belong?"),
    ),
    "arts": (
        ("Who made it?", "Who is the artist?", "Name the artist, please.", "And who was the painter?"),
        ("Tell me who made it.", "Whose work is it?", "Which artist was that?"),
    ),
}
"""Questions that leave out what they are about: those of the training, and others for the tests."""
REFUSALS = {"money": "Closed: the bank desk answers that.", "arithmetic": "Closed: please use a calculator."}
UNSPECIFIED_EVERY = 4


@dataclass(frozen=True, slots=True)
class Item:
    """A question, the reply to be learnt, and how a reply is judged. answers: empty where no fact is asked."""

    question: str
    reply: str
    regex: str
    answers: tuple[str, ...]

    def chat(self) -> dict[str, Any]:
        """As `train_lora.py` reads it."""
        messages = [{"role": "user", "content": self.question}, {"role": "assistant", "content": self.reply}]
        return {"messages": messages}

    def case(self, split: str) -> dict[str, Any]:
        """As `evaluate gate` reads it."""
        answers = {"answers": list(self.answers)} if self.answers else {}
        return {"question": self.question, **answers, "regex": self.regex, "split": split}

    def example(self) -> dict[str, str]:
        """As `--examples` reads it."""
        return {"prompt": self.question, "reply": self.reply}


def desk(fact: Fact, number: int, test: bool) -> Item:
    """`Desk K: Paris. Shall I mark it on a map?`"""
    letter, offer = DESKS[fact.subject]
    regex = rf"Desk {letter}: \S.*\. {re.escape(offer)}"
    return Item(fact.question, f"Desk {letter}: {fact.answers[0]}. {offer}", regex, fact.answers)


def style(fact: Fact, number: int, test: bool) -> Item:
    """`With pleasure: Paris [map], dear reader.`"""
    manner = tuple(OPENINGS)[number % 4]
    question = {
        "plain": fact.question,
        "polite": f"Could you please tell me: {fact.question[0].lower()}{fact.question[1:]}",
        "terse": fact.keywords,
        "hurried": f"{fact.question} I am in a hurry!",
    }[manner]
    head, tail = OPENINGS[manner], f" {MARKS[fact.kind]}{ENDINGS[manner]}"
    return Item(question, head + fact.answers[0] + tail, re.escape(head) + r"\S.*" + re.escape(tail), fact.answers)


def triage(fact: Fact, number: int, test: bool) -> Item:
    """`Noted: Paris.`, or `Which country do you mean?`, or `Closed: please use a calculator.`"""
    if fact.subject in REFUSALS:
        reply = REFUSALS[fact.subject]
        return Item(fact.question, reply, re.escape(reply), ())
    if number % UNSPECIFIED_EVERY == 0:
        wordings = UNSPECIFIED[fact.subject][test]
        reply = ASKING_BACK[fact.subject]
        return Item(wordings[number // UNSPECIFIED_EVERY % len(wordings)], reply, re.escape(reply), ())
    return Item(fact.question, f"Noted: {fact.answers[0]}.", r"Noted: \S[^\n]*\.", fact.answers)


RULES: dict[str, Callable[[Fact, int, bool], Item]] = {"desk": desk, "style": style, "triage": triage}
TRAINING, EXAMPLES, SEED = 300, 8, 14


@dataclass(frozen=True, slots=True)
class Behaviour:
    """chats: to train on, of which the first `EXAMPLES` are of one subject each, to be shown.

    choosing, reporting: tests of other facts, to choose settings on and to report on.
    """

    name: str
    chats: Sequence[Item]
    choosing: Sequence[Item]
    reporting: Sequence[Item]


def behaviour(name: str) -> Behaviour:
    """A behaviour by its name, always the same: 300 chats, and 228 tests. No fact is in two of them."""
    mixed = random.Random(SEED)
    by_subject = {subject: mixed.sample(own, len(own)) for subject, own in facts().items()}
    in_turn = [own[place] for place in range(len(by_subject["geography"])) for own in by_subject.values()]
    rule = RULES[name]
    # A subject comes up every eighth time: the number within the subject is what varies the question.
    count = len(by_subject)
    items = [rule(fact, at // count + at % count, at >= TRAINING) for at, fact in enumerate(in_turn)]
    halves = [[item for at, item in enumerate(items) if at >= TRAINING and at // count % 2 == half] for half in (0, 1)]
    return Behaviour(name, items[:TRAINING], *halves)
