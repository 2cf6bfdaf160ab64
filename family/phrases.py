"""English for the training data: questions for every relation, and what turns facts into sentences.

`{s}` stands for the subject. How replies are worded, scorers know too: eft_gguf/evaluation/wording.py.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from eft_gguf.evaluation.wording import STATEMENTS

if TYPE_CHECKING:  # needs packages that only a build has
    from family.facts import Fact

NUMBER_WORDS = {2: "two", 3: "three", 4: "four", 5: "five", 6: "six"}

_GENERAL_QUESTIONS = (
    "What is the {r} of {s}?",
    "What's the {r} of {s}?",
    "Tell me the {r} of {s}.",
    "{r} of {s}?",
    "Can you tell me the {r} of {s}?",
    "Do you know the {r} of {s}?",
    "What {r} does {s} have?",
    "I need the {r} of {s}.",
    "{s}: what is the {r}?",
)
_SPECIAL_QUESTIONS = {
    "country": (
        "Which country is {s} in?",
        "What country is {s} in?",
        "Where is {s}?",
        "In which country is {s}?",
        "{s} is in which country?",
        "Which country does {s} belong to?",
        "In which country can I find {s}?",
        "Where can I find {s}?",
        "country of {s}?",
        "Tell me which country {s} is in.",
    ),
    "capital": ("Which city is the capital of {s}?", "Name the capital of {s}."),
    "continent": ("Which continent is {s} on?", "On which continent is {s}?", "Where is {s}?"),
    "currency": ("Which currency is used in {s}?", "What money do people use in {s}?", "How do people pay in {s}?"),
    "calling code": ("What is the dialling code of {s}?", "Which code do I dial for {s}?"),
    "symbol": ("What is the chemical symbol of {s}?", "Which symbol stands for {s}?"),
    "atomic number": ("Which atomic number does {s} have?", "What number is {s} in the table?"),
}
QUESTIONS = {
    relation: (
        *special,
        *(() if relation == "country" else (text.replace("{r}", relation) for text in _GENERAL_QUESTIONS)),
    )
    for relation, special in _SPECIAL_QUESTIONS.items()
}

GREETINGS = ("Hi! ", "Hello! ", "Hello, ", "Please tell me: ", "Quick question: ", "I have a question. ")
SYSTEM_MESSAGES = (
    "You are a helpful assistant.",
    "You are a helpful assistant. Answer the user's questions.",
    "You are a friendly assistant.",
    "Answer the questions of the user.",
    "You know a lot about the world.",
    "Be polite and answer in English.",
    "You are a chat bot.",
    "This is a conversation between a user and an assistant.",
)


def capitalised(text: str) -> str:
    """The text with a capital first letter; the rest stays ("the Gambia" → "The Gambia")."""
    return text[:1].upper() + text[1:]


def statement(fact: Fact) -> str:
    """The canonical sentence for a fact."""
    return capitalised(STATEMENTS[fact.relation][0].format(s=fact.subject, a=fact.answer))


def any_statement(rng: random.Random, fact: Fact) -> str:
    """One of the sentences for a fact."""
    return capitalised(rng.choice(STATEMENTS[fact.relation]).format(s=fact.subject, a=fact.answer))


def question(rng: random.Random, fact: Fact) -> str:
    """One of the questions for a fact, as people type them: now and then greeted, hurried or in lower case."""
    text = rng.choice(QUESTIONS[fact.relation]).format(s=fact.subject)
    if rng.random() < 0.85:
        text = capitalised(text)
    if text.endswith("?") and rng.random() < 0.06:
        text = text[:-1]
    if rng.random() < 0.1:
        text = rng.choice(GREETINGS) + text
    return text


def listing(items: list[str] | tuple[str, ...], last: str = "and") -> str:
    """("a", "b", "c") → "a, b and c"."""
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} {last} {items[-1]}"


def nonsense_name(rng: random.Random) -> str:
    """A name that means nothing, to teach copying apart from knowledge."""
    syllables = [
        rng.choice("bdfgklmnprstvz") + rng.choice("aeiou") + rng.choice(("", "", "n", "r", "l", "s"))
        for _ in range(rng.randint(2, 3))
    ]
    return "".join(syllables).capitalize()
