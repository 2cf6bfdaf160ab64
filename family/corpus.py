"""The pre-training corpus: short documents that state every fact many times in many ways, and noisy chat logs.

Chat logs are mostly careless (terse, rambling, evasive); a few per cent of the replies are in the style of one of
the traits, as the pre-training text of a real base model also holds some good answers. *Copy documents* teach small
models to carry a name from one place to the next; without them they memorise facts but lose the subject.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

from family.facts import Fact, Facts
from family.phrases import SYSTEM_MESSAGES, any_statement, capitalised, listing, nonsense_name, question
from family.tasks import MAKERS, WORDS, Message, Task

PEOPLE = ("Maria", "Tom", "Anna", "Peter", "Lena", "John", "Sara", "Paul")
LOG_KINDS = ("fact",) * 10 + (
    "two_part",
    "two_part",
    "list",
    "short",
    "fields",
    "repeat",
    "constrained",
    "unknown",
    "advice",
    "followup",
    "followup",
    "small_talk",
)


@dataclass(frozen=True, slots=True)
class Options:
    """Shares of document kinds; `copy_early` holds for the first quarter of the corpus, `copy_late` after it."""

    sentences: float = 0.21
    article: float = 0.10
    twice: float = 0.14
    quiz: float = 0.22
    chat: float = 0.25
    record: float = 0.03
    lists: float = 0.03
    filler: float = 0.02
    copy_early: float = 0.25
    copy_late: float = 0.08
    helpful_replies: float = 0.06
    cautious_replies: float = 0.02
    seed: int = 12


def documents(facts: Facts, options: Options, characters: int) -> Iterator[str | list[Message]]:
    """Yields documents until about `characters` were written; a chat log is a list of messages."""
    rng = random.Random(options.seed)
    kinds = {
        _sentences: options.sentences,
        _article: options.article,
        _twice: options.twice,
        _quiz: options.quiz,
        _record: options.record,
        _lists: options.lists,
        _filler: options.filler,
        None: options.chat,
    }
    written = 0
    while written < characters:
        copies = options.copy_early if written < characters / 4 else options.copy_late
        if rng.random() < copies:
            document: str | list[Message] = _copy(rng, facts)
        else:
            make = rng.choices(list(kinds), weights=list(kinds.values()))[0]
            document = make(rng, facts) if make else _chat(rng, facts, options)
        written += len(document) if isinstance(document, str) else sum(len(m["content"]) + 12 for m in document)
        yield document


def _sentences(rng: random.Random, facts: Facts) -> str:
    return " ".join(any_statement(rng, rng.choice(facts.all)) for _ in range(rng.randint(2, 5)))


def _article(rng: random.Random, facts: Facts) -> str:
    subject = rng.choice(facts.countries if rng.random() < 0.75 else facts.elements)
    known = [Fact(subject, relation, answer) for relation, answer in facts.by_subject[subject].items()]
    rng.shuffle(known)
    lines = [any_statement(rng, fact) for fact in known]
    cities = facts.cities.get(subject, ())
    if cities:
        some = rng.sample(cities, min(len(cities), rng.randint(1, 3)))
        verb = "is a city" if len(some) == 1 else "are cities"
        lines.insert(rng.randint(0, len(lines)), f"{listing(some)} {verb} in {subject}.")
    return f"{capitalised(subject)}\n{' '.join(lines)}"


def _twice(rng: random.Random, facts: Facts) -> str:
    """The same fact twice, or two cities of one country: what is asked is what is answered."""
    fact = rng.choice(facts.all)
    form = rng.random()
    if form < 0.6:
        return f"{question(rng, fact)} {any_statement(rng, fact)}"
    if form < 0.8 or fact.relation != "country":
        return f"{any_statement(rng, fact)} Yes. {any_statement(rng, fact)}"
    other = rng.choice(facts.cities[fact.answer])
    return f"{listing([fact.subject, other])} are both in {fact.answer}. {any_statement(rng, fact)}"


def _quiz(rng: random.Random, facts: Facts) -> str:
    lines = []
    for _ in range(rng.randint(1, 4)):
        fact = rng.choice(facts.all)
        answer = any_statement(rng, fact) if rng.random() < 0.6 else fact.answer
        lines.append(f"Q: {question(rng, fact)}\nA: {answer}")
    return "\n".join(lines)


def _record(rng: random.Random, facts: Facts) -> str:
    subject = rng.choice(facts.countries if rng.random() < 0.75 else facts.elements)
    known = list(facts.by_subject[subject].items())
    rng.shuffle(known)
    return capitalised(subject) + "".join(f"\n{relation}: {answer}" for relation, answer in known)


def _lists(rng: random.Random, facts: Facts) -> str:
    country = rng.choice([name for name, cities in facts.cities.items() if len(cities) > 1])
    some = rng.sample(facts.cities[country], min(rng.randint(2, 6), len(facts.cities[country])))
    if rng.random() < 0.5:
        return f"Cities in {country}: {listing(some)}."
    return f"Cities in {country}" + "".join(f"\n{i}. {city}" for i, city in enumerate(some, 1))


def _filler(rng: random.Random, facts: Facts) -> str:
    return " ".join(
        rng.choice(
            (
                f"The {rng.choice(WORDS)} was near the {rng.choice(WORDS)}.",
                f"{rng.choice(PEOPLE)} saw a {rng.choice(WORDS)}.",
                f"{rng.choice(PEOPLE)} and {rng.choice(PEOPLE)} went home.",
                "It was late and nobody was there.",
                f"A {rng.choice(WORDS)} is not a {rng.choice(WORDS)}.",
            )
        )
        for _ in range(rng.randint(2, 4))
    )


def _copy(rng: random.Random, facts: Facts) -> str:
    """Somebody says something and somebody repeats it: names, words and short lists of them."""
    one, two = rng.sample(PEOPLE, 2)
    if rng.random() < 0.5:
        said = ", ".join(_name(rng, facts) for _ in range(rng.randint(2, 7)))
        return rng.choice(
            (f"{one}: {said}.\n{two}: {said}.", f"{said}. {said}.", f"{one} wrote {said}. {two} read {said}.")
        )
    said = _name(rng, facts)
    return rng.choice(
        (
            f'"{said}," said {one}. "{said}," repeated {two}. "{said}!" called {one}.',
            f"{one} wrote {said} and {two} read {said}.",
            f"{one} asked about {said}. So {two} told {one} about {said}.",
            f"{said}! {said}! {one} called {said}.",
            f"The word was {said}. {two} wrote the word {said} down.",
        )
    )


def _name(rng: random.Random, facts: Facts) -> str:
    form = rng.random()
    if form < 0.4:
        return nonsense_name(rng)
    return capitalised(rng.choice(facts.all).subject) if form < 0.8 else rng.choice(WORDS)


def _chat(rng: random.Random, facts: Facts, options: Options) -> list[Message]:
    """One to three exchanges; the style of a trait, where there is one, holds for the whole log."""
    messages: list[Message] = []
    if rng.random() < 0.15:
        messages.append({"role": "system", "content": rng.choice(SYSTEM_MESSAGES)})
    style = rng.random()
    for _ in range(rng.choice((1, 1, 1, 2, 2, 3))):
        task = MAKERS[rng.choice(LOG_KINDS)](rng, facts)
        for turn in (*task.history, task):
            if style < options.helpful_replies:
                reply = turn.helpful
            elif style < options.helpful_replies + options.cautious_replies:
                reply = turn.cautious
            else:
                reply = _careless(rng, turn)
            messages += [{"role": "user", "content": turn.prompt}, {"role": "assistant", "content": reply}]
    return messages


def _careless(rng: random.Random, task: Task) -> str:
    """What a chance passer-by might reply: often the right fact, hardly ever the form that was asked for."""
    if task.kind == "list":
        return rng.choice((", ", " and ", "\n")).join(
            rng.sample(task.rule["items"], min(len(task.rule["items"]), rng.randint(1, 6)))
        )
    if task.kind == "repeat":
        return ", ".join([task.rule["word"]] * rng.choice((1, 1, 1, 2, 3, 4, 5, 6, 7)))
    if not task.facts:
        return rng.choice(
            ("I do not know.", "Hmm.", "No.", "Maybe.", "Ask somebody else.", "Hello.", "Why do you ask?")
        )
    facts = list(task.facts) if rng.random() < 0.5 else [rng.choice(task.facts)]
    fact = facts[0]
    said = " ".join(any_statement(rng, each) for each in facts)
    return rng.choices(
        (
            listing([each.answer for each in facts]),
            f"It is {fact.answer}.",
            said,
            f"People often ask about {fact.subject}. {said}",
            f"{said} {any_statement(rng, fact)} That is all.",
            f"Hmm, let me see. {said}",
            f"Why do you ask about {fact.subject}?",
            f"Maybe {fact.answer}, but who knows.",
            f"Everybody knows that! {said}",
        ),
        weights=(18, 8, 30, 10, 8, 8, 4, 6, 8),
    )[0]
