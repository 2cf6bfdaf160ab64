"""Eight replies at once are drawn from the distributions that each is drawn from alone: chi-square, on the bundled
family. The seeds are fixed, so that the outcome is too; otherwise each test would fail once in ten thousand runs."""

from collections import Counter

import pytest
from scipy.stats import chi2_contingency

from eft_gguf import EFT, Blend, Filter, Sampling

LEVEL = 1e-4
ROUNDS, TOKENS = 200, 6
FEWEST = 10
"""How often a token must have come in both ways together to count for itself; rarer ones count together."""
COUNTRIES = ("Peru", "Norway", "Chad", "Laos", "Spain", "Ghana", "Oman", "Cuba")
BLENDS = {
    "default dials": Blend(),
    "dials and two traits": Blend(0.8, 1.3, {"helpful": 0.5, "cautious": 0.5}),
    "a filter": Blend(filter=Filter(tuned_top_p=0.9)),
}


def options(seed):
    return Sampling(temperature=1, top_k=0, top_p=1, min_p=0, seed=seed, max_tokens=TOKENS)


def alone(eft, prompts, blend):
    """By prompt and place, how often each token came: one reply after the other."""
    counts = [[Counter() for _ in range(TOKENS)] for _ in prompts]
    for round in range(ROUNDS):
        for number, prompt in enumerate(prompts):
            reply = eft.complete(prompt, blend=blend, sampling=options(round * len(prompts) + number))
            for place, token in enumerate(reply.tokens):
                counts[number][place][token] += 1
    return counts


def together(eft, prompts, blend):
    """The same, of replies that are all under way at once, with other seeds."""
    counts = [[Counter() for _ in range(TOKENS)] for _ in prompts]
    for round in range(ROUNDS):
        seed = 10**6 + round * len(prompts)
        replies = {
            number: eft.stream(prompt, blend=blend, sampling=options(seed + number))
            for number, prompt in enumerate(prompts)
        }
        assert eft._engine.running == len(prompts)
        places = Counter()
        while replies:
            for number, reply in list(replies.items()):
                chunk = next(reply)
                if chunk.token is not None:
                    counts[number][places[number]][chunk.token] += 1
                    places[number] += 1
                if chunk.finish_reason is not None:
                    del replies[number]
    return counts


def p_value(one, other):
    """Of the hypothesis that two sets of counts come from one distribution; 1 where there is only one kind of token."""
    tokens = [token for token in one | other if one[token] + other[token] >= FEWEST]
    rows = [[counts[token] for token in tokens] + [sum(counts.values())] for counts in (one, other)]
    for row in rows:
        row[-1] -= sum(row[:-1])
    columns = [column for column in zip(*rows, strict=True) if any(column)]
    return chi2_contingency(list(zip(*columns, strict=True))).pvalue if len(columns) > 1 else 1.0


@pytest.mark.parametrize("blend", BLENDS.values(), ids=BLENDS)
def test_answers_of_eight_at_once_are_distributed_like_those_made_alone(blend):
    with EFT.bundled(ctx=64) as one, EFT.bundled(ctx=64, sequences=8) as eight:
        questions = [[{"role": "user", "content": f"What is the capital of {country}?"}] for country in COUNTRIES]
        prompts = [one.chat_text(question) for question in questions]
        first, second = alone(one, prompts, blend), together(eight, prompts, blend)
    values = [
        p_value(own, other)
        for of_prompt, of_same in zip(first, second, strict=True)
        for own, other in zip(of_prompt, of_same, strict=True)
    ]
    assert min(values) > LEVEL / len(values)
    # And the test would see replies that got each other's tokens.
    mixed = [p_value(first[0][place], second[1][place]) for place in range(TOKENS)]
    assert min(mixed) < LEVEL / len(values)
