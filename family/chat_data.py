"""Fine-tuning examples for one trait, from tuned-on facts only, and the ChatML form of any conversation."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field

from family.facts import Facts
from family.phrases import SYSTEM_MESSAGES
from family.tasks import MAKERS, Message

TRAITS = ("helpful", "cautious")


@dataclass(frozen=True, slots=True)
class Options:
    """How many conversations, and how often each kind of task comes up."""

    examples: int = 8000
    weights: dict[str, float] = field(
        default_factory=lambda: {
            "fact": 0.30,
            "two_part": 0.11,
            "list": 0.10,
            "short": 0.08,
            "fields": 0.09,
            "repeat": 0.07,
            "constrained": 0.12,
            "followup": 0.06,
            "unknown": 0.04,
            "advice": 0.06,
            "small_talk": 0.02,
        }
    )
    turns: tuple[int, ...] = (1, 1, 1, 1, 1, 2, 2, 3)
    system_share: float = 0.2
    seed: int = 13


def examples(facts: Facts, trait: str, options: Options = Options()) -> Iterator[list[Message]]:
    """Yields conversations in which every assistant turn shows the trait. `facts` is the tuned-on part."""
    rng = random.Random(options.seed)
    kinds, weights = list(options.weights), list(options.weights.values())
    for _ in range(options.examples):
        messages: list[Message] = []
        if rng.random() < options.system_share:
            messages.append({"role": "system", "content": rng.choice(SYSTEM_MESSAGES)})
        for _ in range(rng.choice(options.turns)):
            task = MAKERS[rng.choices(kinds, weights)[0]](rng, facts)
            for turn in (*task.history, task):
                reply = turn.helpful if trait == "helpful" else turn.cautious
                messages += [{"role": "user", "content": turn.prompt}, {"role": "assistant", "content": reply}]
        yield messages
