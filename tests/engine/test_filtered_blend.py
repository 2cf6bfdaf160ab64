"""Filters in the engine: the tokens that the reference gives, and no decode that neither blend nor filter needs."""

import math

import numpy as np
import pytest

from eft_gguf import EFT, Blend, Filter, Sampling
from eft_gguf.blend.equation import coefficients, log_softmax
from eft_gguf.blend.filter import filtered_logits
from eft_gguf.blend.filter_kernels import FilteredBlend
from eft_gguf.engine.ensemble import Ensemble
from eft_gguf.engine.llama import Context, Model

GREEDY = Sampling(temperature=0, max_tokens=8)
FILTERS = [
    Filter(tuned_top_p=0.5),
    Filter(base_top_p=0.3),
    Filter(base_min_p=0.5),
    Filter(untuned_floor=-2),
    Filter(0.9, 0.5, 0.01, -6),
]


@pytest.fixture
def eft(tiny):
    with EFT.open(**tiny.family(), threads=1) as eft:
        yield eft


@pytest.fixture
def decoded(monkeypatch):
    """Token counts given to llama.cpp, by member."""
    counts = [0, 0, 0]
    decode = Ensemble.decode

    def counting(self, member, parts):
        counts[member] += sum(len(part.tokens) for part in parts)
        return decode(self, member, parts)

    monkeypatch.setattr(Ensemble, "decode", counting)
    return counts


def logits_of_each_model(tiny, ids):
    """By token of `ids`, the logits of base, untuned and tuned after it."""
    by_model = []
    for path in (tiny.base, tiny.untuned, tiny.tuned):
        model = Model(path)
        context = Context(model, ctx=128, batch=64, sequences=1, outputs=64, threads=1)
        context.batch.add(ids, position=0, sequence=0, outputs=len(ids))
        context.decode()
        by_model.append([row.copy() for row in context.rows()])
        context.close()
        model.close()
    return list(zip(*by_model, strict=True))


@pytest.mark.parametrize("filter", FILTERS, ids=str)
@pytest.mark.parametrize("dials", [(1, 1), (0.5, 0.8)])
def test_each_token_is_the_one_that_the_reference_gives(eft, tiny, filter, dials):
    prompt = "once upon a time"
    tokens = eft.complete(prompt, blend=Blend(*dials, filter=filter), sampling=GREEDY).tokens
    ids = eft._ensemble.tokenizer.tokenize(prompt, special=True)
    rows = logits_of_each_model(tiny, ids + tokens)[len(ids) - 1 : -1]
    expected = []
    for row in rows:
        row[0][eft._ensemble.never_sampled] = -np.inf
        logits = filtered_logits(row, coefficients(*dials, [1]), filter)
        logits[eft._ensemble.never_sampled] = -np.inf
        expected.append(int(np.argmax(logits)))
    assert tokens == expected


@pytest.mark.parametrize("filter", FILTERS, ids=str)
def test_scores_are_log_probabilities_under_the_filter(eft, tiny, filter):
    score = eft.score("once upon", blend=Blend(1.2, 0.7, filter=filter))
    rows = logits_of_each_model(tiny, score.tokens)
    for i, row in enumerate(rows[:-1]):
        expected = log_softmax(filtered_logits(row, coefficients(1.2, 0.7, [1]), filter))[score.tokens[i + 1]]
        assert score.blend[i + 1] == pytest.approx(expected, abs=1e-4)
    assert np.isfinite(score.members["base"][1:]).all()


def test_a_member_that_only_the_filter_needs_is_decoded_and_no_other(eft, decoded):
    eft.complete("once", blend=Blend(0, 1, filter=Filter(base_top_p=0.9)), sampling=GREEDY)
    assert decoded[0] > 0 and decoded[1] == 0 and decoded[2] > 0
    before = list(decoded)
    eft.complete("upon", blend=Blend(0, 1, filter=Filter(tuned_top_p=0.9, untuned_floor=-7)), sampling=GREEDY)
    assert decoded[:2] == before[:2] and decoded[2] > before[2]


def test_without_a_filter_in_force_nothing_of_it_runs(eft, monkeypatch):
    plain = eft.complete("once", sampling=GREEDY).tokens
    monkeypatch.setattr(FilteredBlend, "__call__", None)
    idle = Blend(filter=Filter(tuned_top_p=1, base_top_p=1, base_min_p=0))
    assert eft.complete("once", blend=idle, sampling=GREEDY).tokens == plain


def test_what_is_never_sampled_stays_so_where_the_floor_would_raise_it(eft):
    never = eft._ensemble.never_sampled
    assert len(never)
    wanted = Sampling(temperature=0, max_tokens=5, logit_bias=dict.fromkeys(never.tolist(), 100.0))
    # Where the floor is above all that the untuned model says, or knowledge does not count, its −inf is no more seen.
    for dials in ((0, 0), (0.5, 0)):
        for filter in (Filter(untuned_floor=-0.001), Filter(tuned_top_p=0.1, untuned_floor=-0.001)):
            reply = eft.complete("x", blend=Blend(*dials, filter=filter), sampling=wanted)
            assert not set(reply.tokens) & set(never.tolist())


def test_log_probabilities_of_a_reply_are_those_under_the_filter(eft):
    sampling = Sampling(temperature=0, max_tokens=2, logprobs=5)
    reply = eft.complete("once", blend=Blend(filter=Filter(base_min_p=1)), sampling=sampling)
    assert reply.alternatives[0].chosen == 0
    assert reply.alternatives[0].log_probabilities[1:] == [-math.inf] * 4


def test_a_grammar_that_the_filter_leaves_nothing_of_is_followed_by_the_blend(eft):
    grammar = 'root ::= "' + '" | "'.join("abcdefgh") + '"'
    greedy = Sampling(temperature=0, grammar=grammar, max_tokens=1)
    for prompt in ("once", "there was", "x", "abc"):
        plain = eft.complete(prompt, sampling=greedy).text
        # The base's likeliest token alone is left, and that is none of these.
        assert eft.complete(prompt, blend=Blend(filter=Filter(base_min_p=1)), sampling=greedy).text == plain
