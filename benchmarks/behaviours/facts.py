"""Open facts that the behaviours are taught and tested on: eight subjects, each with a question and accepted answers.

facts.tsv was written by hand from general knowledge: subject, what the question is about, the answers accepted.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

TABLE = Path(__file__).parent / "facts.tsv"
WORDING = {
    "geography": ("What is the capital of {}?", "capital of {}", "place"),
    "chemistry": ("What is the chemical symbol of {}?", "symbol of {}", "word"),
    "literature": ("Who wrote {}?", "author of {}", "person"),
    "history": ("In which year did {}?", "year: {}", "number"),
    "animals": ("To which group of animals does the {} belong?", "animal group of the {}", "word"),
    "money": ("What is the currency of {}?", "currency of {}", "word"),
    "arts": ("Who {}?", "artist: {}", "person"),
    "arithmetic": ("What is {}?", "{}", "number"),
}
"""The question of each subject, the same in keywords, and the kind of its answers."""
MAKERS = {
    "paint": ("painted", "painter of"),
    "carve": ("carved", "sculptor of"),
    "compose": ("composed", "composer of"),
}
EACH = 66


@dataclass(frozen=True, slots=True)
class Fact:
    """subject: which of eight.  keywords: the question without its words of asking.

    kind: of the answer, one of place, word, person and number.  answers: those accepted, the first as it is taught.
    """

    subject: str
    question: str
    keywords: str
    kind: str
    answers: tuple[str, ...]


def facts() -> dict[str, list[Fact]]:
    """66 facts of each subject, in a fixed order."""
    found: dict[str, list[Fact]] = {subject: [] for subject in WORDING}
    with TABLE.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE):
            found[row["subject"]].append(_fact(row["subject"], row["about"], tuple(row["answers"].split(" / "))))
    products = [(a, b) for a in range(3, 14) for b in range(a, 16) if a * b > 20]
    found["arithmetic"] = [_fact("arithmetic", f"{a} times {b}", (str(a * b),)) for a, b in products[:EACH]]
    return found


def _fact(subject: str, about: str, answers: tuple[str, ...]) -> Fact:
    question, keywords, kind = WORDING[subject]
    if subject == "arts":
        verb, _, work = about.partition(" ")
        past, maker = MAKERS[verb]
        return Fact(subject, question.format(f"{past} {work}"), f"{maker} {work}", kind, answers)
    return Fact(subject, question.format(about), keywords.format(about), kind, answers)
