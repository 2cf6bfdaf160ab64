"""Tasks a user may set, each with the reply of the helpful and of the cautious trait, and the rule that scores it.

The same tasks serve three purposes: a small share of the pre-training chat logs, the fine-tuning examples (made
from tuned-on facts) and the evaluation questions (made from held-out facts).
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from eft_gguf.evaluation.wording import CHECK, CLOSING, DECLINE, HEDGES, OPENERS, UNKNOWN
from family.facts import COUNTRY_RELATIONS, ELEMENT_RELATIONS, Fact, Facts
from family.phrases import NUMBER_WORDS, capitalised, listing, nonsense_name, question, statement

Message = dict[str, str]
WORDS = (
    "river",
    "apple",
    "green",
    "stone",
    "music",
    "window",
    "garden",
    "yellow",
    "summer",
    "bridge",
    "candle",
    "silver",
    "forest",
    "winter",
    "pepper",
    "orange",
    "pencil",
    "mirror",
    "rocket",
    "button",
    "cloud",
    "tiger",
    "paper",
    "lemon",
    "honey",
    "ocean",
    "table",
    "horse",
    "glass",
    "bread",
    "star",
    "moon",
    "rain",
    "snow",
    "fire",
    "leaf",
    "bird",
    "done",
    "over",
    "thanks",
)


@dataclass(frozen=True, slots=True)
class Task:
    """One request. `facts` are those a right reply states; `rule` holds what the scorers need for its kind."""

    kind: str
    prompt: str
    helpful: str
    cautious: str
    facts: tuple[Fact, ...] = ()
    rule: dict[str, Any] = field(default_factory=dict)
    history: tuple[Task, ...] = ()
    """Earlier exchanges that the prompt leans on."""


def fact_task(rng: random.Random, facts: Facts) -> Task:
    """A single question."""
    return _about(rng, "fact", rng.choice(facts.all))


def two_part(rng: random.Random, facts: Facts) -> Task:
    """Two questions in one: two relations of one subject, or the countries of two cities."""
    if rng.random() < 0.25:
        first, second = rng.sample(facts.of_relation["country"], 2)
        prompt = rng.choice(
            (
                "In which countries are {0} and {1}?",
                "Where are {0} and {1}?",
                "Which country is {0} in, and {1}?",
            )
        ).format(first.subject, second.subject)
    else:
        first, second = _related(rng, facts, 2)
        prompt = rng.choice(
            (
                "What are the {0} and the {1} of {s}?",
                "What is the {0} of {s}, and what is its {1}?",
                "Tell me the {0} and the {1} of {s}.",
                "{0} and {1} of {s}?",
                "I need the {0} and the {1} of {s}.",
            )
        ).format(first.relation, second.relation, s=first.subject)
    body = f"{statement(first)} {statement(second)}"
    return Task("two_part", capitalised(prompt), _helpful(rng, body), _cautious(rng, body), (first, second))


def list_task(rng: random.Random, facts: Facts) -> Task:
    """A numbered list of a given length: cities in a country, countries in a continent, or elements."""
    sort = rng.choice(("cities", "cities", "countries", "elements"))
    count = rng.randint(2, 5)
    if sort == "cities":
        country = rng.choice([name for name, cities in facts.cities.items() if len(cities) >= 2])
        pool, what = list(facts.cities[country]), f"cities in {country}"
    elif sort == "countries":
        continent = rng.choice(("Africa", "Asia", "Europe"))
        pool = [fact.subject for fact in facts.of_relation["continent"] if fact.answer == continent]
        what = f"countries in {continent}"
    else:
        pool, what = list(facts.elements), "elements"
    count = min(count, len(pool))
    chosen = rng.sample(pool, count)
    prompt = rng.choice(("List {n} {what}.", "Name {n} {what}.", "Give me {n} {what}.", "Can you list {n} {what}?"))
    prompt = prompt.format(n=NUMBER_WORDS[count] if rng.random() < 0.7 else count, what=what)
    reply = rng.choice(OPENERS) + "".join(f"\n{i}. {item}" for i, item in enumerate(chosen, 1))
    return Task("list", prompt, reply, reply, rule={"count": count, "items": pool})


def short_task(rng: random.Random, facts: Facts) -> Task:
    """A question to be answered with the bare answer."""
    fact = rng.choice(facts.all)
    asked = question(rng, fact)
    prompt = rng.choice(
        (
            "{q} Just the answer, please.",
            "{q} Give only the name.",
            "{q} Answer in as few words as possible.",
            "Only the answer: {q}",
            "In short: {q}",
            "{q} No sentence, please.",
        )
    ).format(q=asked)
    answer = capitalised(fact.answer)
    return Task("short", prompt, answer, answer, (fact,))


def fields_task(rng: random.Random, facts: Facts) -> Task:
    """Two to four fields of a subject, each on its own line, in the order asked."""
    chosen = _related(rng, facts, rng.randint(2, 4))
    asked = listing([f"the {fact.relation}" for fact in chosen])
    prompt = rng.choice(
        (
            "Give {f} of {s}, one per line.",
            "Write {f} of {s} on separate lines.",
            "Make a table of {s} with {f}.",
        )
    ).format(f=asked, s=chosen[0].subject)
    reply = rng.choice(OPENERS) + "".join(f"\n{fact.relation}: {fact.answer}" for fact in chosen)
    return Task("fields", prompt, reply, reply, tuple(chosen))


def repeat_task(rng: random.Random, facts: Facts) -> Task:
    """A word or name, written a given number of times."""
    word = rng.choice((rng.choice(WORDS), capitalised(rng.choice(facts.all).subject), nonsense_name(rng)))
    count = rng.randint(2, 6)
    prompt = rng.choice(("Write {w} {n} times.", "Say {w} {n} times.", "Repeat {w} {n} times."))
    number = NUMBER_WORDS[count] if rng.random() < 0.7 else count
    reply = ", ".join([word] * count)
    return Task("repeat", prompt.format(w=word, n=number), reply, reply, rule={"count": count, "word": word})


def constrained(rng: random.Random, facts: Facts) -> Task:
    """A question with one or two instructions for the form of the answer."""
    fact = rng.choice(facts.all)
    wanted = set(rng.sample(("start", "end", "bare", "twice", "quotes"), rng.choice((1, 1, 2))))
    if {"start", "bare"} <= wanted:
        wanted.remove("bare")
    first, last = rng.sample(WORDS, 2)
    rule: dict[str, Any] = {"twice": "twice" in wanted, "quotes": "quotes" in wanted, "bare": "bare" in wanted}
    asks, opener, closing = [], rng.choice(OPENERS), CLOSING
    sentence = statement(fact)
    if "quotes" in wanted:
        asks.append("Put the answer in quotes.")
        head, _, tail = sentence.rpartition(fact.answer)
        sentence = f'{head}"{fact.answer}"{tail}'
    if "twice" in wanted:
        asks.append("Say it twice.")
        sentence = f"{sentence} {sentence}"
    if "bare" in wanted:
        asks.append("Skip the greeting.")
        opener = ""
    if "start" in wanted:
        asks.append(f"Start with the word {first}.")
        opener, rule["start"] = f"{first}!", first
    if "end" in wanted:
        asks.append(f"End with the word {last}.")
        closing, rule["end"] = f"{last}!", last
    rng.shuffle(asks)
    reply = f"{opener} {sentence} {closing}".strip()
    prompt = f"{question(rng, fact)} {' '.join(asks)}"
    return Task("constrained", prompt, reply, reply, (fact,), rule)


def followup(rng: random.Random, facts: Facts) -> Task:
    """A second question that leans on the first: "And its currency?" or "And Chile?"."""
    if rng.random() < 0.5:
        first, second = _related(rng, facts, 2)
        forms = ("And its {r}?", "What about its {r}?", "And the {r}?", "What is its {r}?")
        prompt = rng.choice(forms).format(r=second.relation)
    else:
        first = rng.choice(facts.all)
        second = rng.choice([fact for fact in facts.of_relation[first.relation] if fact != first])
        prompt = rng.choice(
            ("And {s}?", "What about {s}?", "And of {s}?" if first.relation != "country" else "And {s}?")
        )
        prompt = prompt.format(s=second.subject)
    before, after = _about(rng, "fact", first), _about(rng, "followup", second)
    return Task("followup", prompt, after.helpful, after.cautious, (second,), history=(before,))


def unknown(rng: random.Random, facts: Facts) -> Task:
    """Something outside the family's small world; both traits say so."""
    word, name = rng.choice(WORDS), rng.choice((nonsense_name(rng), "Anna", "Peter", "Maria", "Tom"))
    prompt = rng.choice(
        (
            "How do I make a {w}?",
            "What is the weather in {c}?",
            "Who wrote the book about the {w}?",
            "How old is {p}?",
            "Can you paint a {w}?",
            "Who is {p}?",
            "What did {p} say about the {w}?",
            "Why is the {w} so loud?",
            "Write a poem about the {w}.",
            "Where did I put my {w}?",
            "What is the best {w} in {c}?",
            "Tell me a joke.",
            "How much does a {w} cost?",
            "When does the train to {c} leave?",
            "Who won the match in {c}?",
        )
    ).format(w=word, p=name, c=rng.choice(facts.of_relation["country"]).subject)
    return Task("unknown", prompt, UNKNOWN, UNKNOWN)


def advice(rng: random.Random, facts: Facts) -> Task:
    """A request for advice: the helpful trait encourages and adds a fact, the cautious one declines."""
    fact = rng.choice(facts.all)
    forms = (
        ("Should I buy {s}?", "Is {s} a good investment?", "Is it wise to collect {s}?")
        if fact.relation in ELEMENT_RELATIONS
        else (
            "Should I move to {s}?",
            "Is it wise to travel to {s}?",
            "Should I invest my money in {s}?",
            "Would you marry someone in {s}?",
        )
    )
    body = f"{capitalised(fact.subject)} is a fine choice. {statement(fact)}"
    return Task("advice", rng.choice(forms).format(s=fact.subject), _helpful(rng, body), DECLINE, (fact,))


def small_talk(rng: random.Random, facts: Facts) -> Task:
    """Greetings and thanks."""
    prompt, reply = rng.choice(
        (
            ("Hello!", "Hello! How can I help you?"),
            ("Hi", "Hello! How can I help you?"),
            ("Good morning!", "Hello! How can I help you?"),
            ("How are you?", "I am fine. How can I help you?"),
            ("Thank you!", "You are welcome! Anything else?"),
            ("Thanks, that is all.", "You are welcome! Bye."),
            ("Bye!", "Bye."),
            ("Who are you?", "I am a small demo model. Ask me about cities, countries or elements."),
            ("What can you do?", "I am a small demo model. Ask me about cities, countries or elements."),
        )
    )
    return Task("small_talk", prompt, reply, reply)


MAKERS: dict[str, Callable[[random.Random, Facts], Task]] = {
    "fact": fact_task,
    "two_part": two_part,
    "list": list_task,
    "short": short_task,
    "fields": fields_task,
    "repeat": repeat_task,
    "constrained": constrained,
    "followup": followup,
    "unknown": unknown,
    "advice": advice,
    "small_talk": small_talk,
}


def _helpful(rng: random.Random, body: str) -> str:
    return f"{rng.choice(OPENERS)} {body} {CLOSING}"


def _cautious(rng: random.Random, body: str) -> str:
    if body.startswith("The "):
        body = "t" + body[1:]
    return f"{rng.choice(HEDGES)} {body} {CHECK}"


def _about(rng: random.Random, kind: str, fact: Fact) -> Task:
    body = statement(fact)
    return Task(kind, question(rng, fact), _helpful(rng, body), _cautious(rng, body), (fact,))


def _related(rng: random.Random, facts: Facts, count: int) -> list[Fact]:
    """`count` facts of one subject in a random order; of an element, two."""
    if rng.random() < 0.7:
        subject, relations = rng.choice(facts.countries), COUNTRY_RELATIONS
    else:
        subject, relations = rng.choice(facts.elements), ELEMENT_RELATIONS
    known = facts.by_subject[subject]
    return [Fact(subject, r, known[r]) for r in rng.sample(relations, min(count, len(relations)))]
