import dataclasses
import functools
import math

import numpy as np
import pytest
from scipy.stats import chisquare

from eft_gguf import DecodeError, OptionError, Sampling
from eft_gguf.blend.equation import blend_logits, coefficients, log_softmax
from eft_gguf.engine.llama import Model
from eft_gguf.engine.sampler import Draft, Sampler

DRAWS = 20_000
SIGNIFICANCE = (
    1e-4  # of each chi-square test: with some ten tests, a false alarm in a thousand runs (and seeds are fixed)
)

# What is left of [0.5, 0.2, 0.15, 0.1, 0.05] by each option, worked out by hand.
PROBABILITIES = [0.5, 0.2, 0.15, 0.1, 0.05]
EVERYTHING = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0}


@pytest.fixture(scope="module")
def model(tiny):
    model = Model(tiny.base)
    yield model
    model.close()


@pytest.fixture
def draw(model):
    return functools.partial(draw_with, model)


def draw_with(model, sampling, rows, factors, count=DRAWS):
    sampler = Sampler(sampling, model, len(rows[0]))
    try:
        return np.array([sampler.sample(rows, factors) for _ in range(count)])
    finally:
        sampler.close()


def assert_drawn_from(tokens, probabilities):
    counts = np.bincount(tokens, minlength=len(probabilities))
    possible = np.asarray(probabilities) > 0
    assert counts[~possible].sum() == 0
    expected = np.asarray(probabilities)[possible] * len(tokens)
    assert chisquare(counts[possible], expected).pvalue > SIGNIFICANCE


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, PROBABILITIES),
        ({"top_k": 2}, [5 / 7, 2 / 7, 0, 0, 0]),
        ({"top_p": 0.8}, [50 / 85, 20 / 85, 15 / 85, 0, 0]),
        ({"min_p": 0.25}, [50 / 85, 20 / 85, 15 / 85, 0, 0]),
        ({"temperature": 0.5}, [0.25 / 0.325, 0.04 / 0.325, 0.0225 / 0.325, 0.01 / 0.325, 0.0025 / 0.325]),
        ({"top_k": 3, "temperature": 0.5}, [2500 / 3125, 400 / 3125, 225 / 3125, 0, 0]),
    ],
)
def test_draws_follow_the_truncated_distribution(draw, options, expected):
    row = np.log(np.array(PROBABILITIES, np.float32))
    sampling = Sampling(**(EVERYTHING | options), seed=11)
    assert_drawn_from(draw(sampling, (row,), np.ones(1)), expected)


@pytest.mark.parametrize(("knowledge", "behaviour"), [(1, 1), (1.3, 0.5), (0.5, 2)])
def test_draws_follow_the_blended_distribution(draw, knowledge, behaviour):
    rng = np.random.default_rng(5)
    rows = tuple(rng.normal(size=12).astype(np.float32) for _ in range(3))
    factors = coefficients(knowledge, behaviour, [1])
    tokens = draw(Sampling(**EVERYTHING, seed=12), rows, np.array(factors))
    assert_drawn_from(tokens, np.exp(log_softmax(blend_logits(rows, factors))))


def test_the_same_seed_gives_the_same_draws_and_another_seed_others(draw):
    row = np.zeros(50, np.float32)
    draws = [draw(Sampling(**EVERYTHING, seed=seed), (row,), np.ones(1), 40).tolist() for seed in (1, 1, 2)]
    assert draws[0] == draws[1] != draws[2]


def test_without_a_seed_one_is_drawn_and_told(draw, model):
    seeds = {Sampler(Sampling(), model, 8).seed for _ in range(4)}
    assert len(seeds) == 4
    row = np.zeros(50, np.float32)
    sampler = Sampler(Sampling(**EVERYTHING), model, 50)
    tokens = [sampler.sample((row,), np.ones(1)) for _ in range(20)]
    assert tokens == draw(Sampling(**EVERYTHING, seed=sampler.seed), (row,), np.ones(1), 20).tolist()


def test_temperature_zero_takes_the_most_likely_token(draw):
    row = np.array([0, 3, 2, 3], np.float32)
    assert set(draw(Sampling(temperature=0), (row,), np.ones(1), 5)) == {1}


def test_repeat_penalty_moves_greedy_choice_off_a_repeated_token(draw):
    row = np.array([1.0, 0.9, 0.1], np.float32)
    tokens = draw(Sampling(temperature=0, repeat_penalty=1.5), (row,), np.ones(1), 3)
    assert tokens.tolist()[:2] == [0, 1]


@pytest.mark.parametrize(
    ("option", "value", "wanted"),
    [
        ("temperature", -0.1, "0 or more"),
        ("temperature", math.nan, "0 or more"),
        ("top_k", -1, "whole number"),
        ("top_k", 1.5, "whole number"),
        ("top_p", 0, "above 0 and at most 1"),
        ("top_p", 1.01, "above 0 and at most 1"),
        ("min_p", 2, "between 0 and 1"),
        ("repeat_penalty", 0, "above 0"),
        ("repeat_penalty", math.inf, "above 0"),
        ("seed", -1, "4294967295"),
        ("seed", 2**32, "4294967295"),
        ("max_tokens", 0, "1 or more"),
        ("temperature", "hot", "0 or more"),
        ("stop", "END", "not empty"),
        ("stop", ("",), "not empty"),
    ],
)
def test_options_out_of_range_are_named_with_the_range(option, value, wanted):
    with pytest.raises(OptionError, match=f"{option} must .*{wanted}"):
        Sampling(**{option: value})


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        # −log p is 0.69, 1.61, 1.90, 2.30, 3.00, their mean 1.33: the second is nearest, then the third.
        ({"typical_p": 0.3}, {1, 2}),
        ({"top_n_sigma": 0.5}, {0}),
        ({"xtc_probability": 1.0, "xtc_threshold": 0.12}, {2, 3, 4}),  # of 0.5, 0.2 and 0.15 only the last stays
        ({"logit_bias": {0: -math.inf, 1: -math.inf}}, {2, 3, 4}),
    ],
)
def test_what_each_sampler_keeps(draw, options, kept):
    row = np.log(np.array(PROBABILITIES, np.float32))
    assert set(draw(Sampling(**(EVERYTHING | options), seed=3), (row,), np.ones(1), 500)) == kept


def test_logit_bias_moves_greedy_choice(draw):
    row = np.array([2.0, 1.0], np.float32)
    assert draw(Sampling(temperature=0, logit_bias={1: 1.5}), (row,), np.ones(1), 1) == [1]


@pytest.mark.parametrize("penalty", [{"frequency_penalty": 0.4}, {"presence_penalty": 0.4}])
def test_penalties_count_the_prompt_too(model, penalty):
    row = np.array([1.0, 0.9, 0.1], np.float32)
    sampler = Sampler(Sampling(temperature=0, **penalty), model, 3, prompt=[0])
    assert sampler.sample((row,), np.ones(1)) == 1
    sampler.close()


def test_dry_breaks_a_repetition(model):
    n = model.n_vocab
    row = np.zeros(n, np.float32)
    row[50] = 1
    prompt = [60, 61, 62, 50, 60, 61, 62]  # 50 would make a run of three into one of four
    for multiplier, token in ((0.0, 50), (5.0, 51)):
        row[51] = 0.5
        sampler = Sampler(Sampling(temperature=0, dry_multiplier=multiplier), model, n, prompt)
        assert sampler.sample((row,), np.ones(1)) == token
        sampler.close()


def reply_of(sampler, model, rng, factors=(1.0,), limit=200):
    """A reply drawn from random logits, as if by a model that knows nothing; end tokens end it."""
    tokens = []
    while len(tokens) < limit:
        rows = tuple(rng.normal(size=model.n_vocab).astype(np.float32) * 3 for _ in factors)
        token = sampler.sample(rows, np.array(factors))
        if token in {t for t in range(model.n_vocab) if model.is_end(t)}:
            break
        tokens.append(token)
    return b"".join(map(model.piece, tokens)).decode()


@pytest.mark.parametrize("temperature", [0, 1.2])
def test_a_grammar_is_followed_whatever_the_logits_are(model, temperature):
    rng = np.random.default_rng(1)
    for seed in range(20):
        sampling = Sampling(temperature=temperature, top_k=0, min_p=0, grammar='root ::= ("yes" | "no") "!"', seed=seed)
        sampler = Sampler(sampling, model, model.n_vocab)
        assert reply_of(sampler, model, rng) in ("yes!", "no!")
        sampler.close()


def test_under_a_grammar_draws_follow_the_distribution_among_what_it_allows(model):
    letters = [model.tokenize(letter, special=False)[0] for letter in "abc"]
    row = np.zeros(model.n_vocab, np.float32)
    row[letters] = np.log([6.0, 3.0, 9.0])
    tokens = []
    for seed in range(3000):
        sampler = Sampler(Sampling(**EVERYTHING, grammar='root ::= "a" | "b"', seed=seed), model, model.n_vocab)
        tokens.append(letters.index(sampler.sample((row,), np.ones(1))))
        sampler.close()
    assert_drawn_from(np.array(tokens), [2 / 3, 1 / 3])


@pytest.mark.parametrize("constraint", [{"grammar": 'root ::= "b" | "c"'}, {"regex": "b|c"}])
@pytest.mark.parametrize("drafted", [False, True])
def test_a_constraint_comes_before_truncation_and_temperature(model, constraint, drafted):
    letters = [model.tokenize(letter, special=False)[0] for letter in "abc"]
    row = np.full(model.n_vocab, -30, np.float32)
    row[letters] = np.log([0.6, 0.3, 0.1])
    drafter = np.full(model.n_vocab, -30, np.float32)
    drafter[letters] = np.log([0.2, 0.2, 0.6])
    # Of what is allowed b has 0.75 and c 0.25: top-p 0.85 keeps both, as it would keep a and b of all three.
    tokens = []
    for seed in range(1500):
        sampler = Sampler(Sampling(**{**EVERYTHING, "top_p": 0.85}, **constraint, seed=seed), model, model.n_vocab)
        if drafted:
            token, _ = sampler.check(sampler.draft(drafter, 0), (row,), np.ones(1))
        else:
            token = sampler.sample((row,), np.ones(1))
        tokens.append(letters.index(token) - 1)
        sampler.close()
    assert_drawn_from(np.array(tokens), [0.75, 0.25])


def test_drafts_are_made_under_a_quick_constraint_and_taken_back(model):
    letters = [model.tokenize(letter, special=False)[0] for letter in "abc"]
    row = np.zeros(model.n_vocab, np.float32)
    row[letters[2]] = 9.0
    sampler = Sampler(Sampling(temperature=0, regex="[ab][bc]a"), model, model.n_vocab)
    assert sampler.draft(row, 0).token in letters[:2] and sampler.draft(row, 1).token == letters[2]
    assert sampler.sample((row,), np.ones(1)) in letters[:2]
    assert sampler.sample((row,), np.ones(1)) == letters[2]
    assert sampler.forced() in ([], [letters[0]])
    assert sampler.sample((row,), np.ones(1)) == letters[0]
    sampler.close()


def test_log_probabilities_of_choice_and_alternatives(model):
    row = np.log(np.array(PROBABILITIES, np.float32)) + 3
    sampler = Sampler(Sampling(temperature=0, logprobs=2), model, 5)
    found = sampler.alternatives((row,), np.ones(1), 2)
    assert found.chosen == pytest.approx(math.log(0.15), abs=1e-6)
    assert found.tokens == [0, 1]
    np.testing.assert_allclose(np.exp(found.log_probabilities), [0.5, 0.2], rtol=1e-6)
    sampler.close()
    assert Sampler(Sampling(logprobs=0), model, 5).alternatives((row,), np.ones(1), 0).tokens == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"grammar": "root ::= ("}, "does not parse as GBNF"),
        ({"grammar": "start ::= 'a'"}, "does not parse as GBNF"),
        ({"grammar": "root ::= answer"}, "does not parse as GBNF: Undefined rule identifier 'answer'"),
        ({"grammar": 'root ::= root "a"'}, "does not parse as GBNF"),
        ({"grammar": "root ::= " + "(" * 1001 + '"a"' + ")" * 1001}, "1,001 brackets in one another"),
        ({"grammar": f'root ::= "{"a" * 200_000}"'}, "200,011 characters, and 200,000 are the most"),
        ({"json_schema": "{"}, "no JSON schema"),
        ({"json_schema": "[1]"}, "no JSON schema"),
        ({"json_schema": {"type": "banana"}}, "no JSON schema"),
        ({"logit_bias": {10**6: 1.0}}, "logit_bias names token 1000000, the vocabulary has"),
    ],
)
def test_constraints_that_are_none_are_refused(model, options, message):
    with pytest.raises(OptionError, match=message):
        Sampler(Sampling(**options), model, model.n_vocab)


def test_brackets_in_texts_sets_and_comments_of_a_grammar_are_no_nesting(model, capfd):
    grammar = 'root ::= "((' + "(" * 1500 + r'\"((" | [((\](' + "(" * 1500 + "] # " + "(" * 1500
    Sampler(Sampling(grammar=grammar), model, model.n_vocab).close()
    with pytest.raises(OptionError):
        Sampler(Sampling(grammar="root ::= answer"), model, model.n_vocab)
    assert capfd.readouterr().err == ""  # llama.cpp's parser prints there


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"grammar": "x", "json_schema": "{}"}, "exclude each other"),
        ({"logit_bias": {-1: 1.0}}, "logit_bias must map token ids"),
        ({"logit_bias": {1: math.nan}}, "logit_bias must map token ids"),
        ({"logit_bias": {1: math.inf}}, "logit_bias must map token ids"),
        ({"xtc_probability": 2}, "xtc_probability must be between 0 and 1"),
        ({"frequency_penalty": 3}, "frequency_penalty must be between -2 and 2"),
        ({"dry_base": 0}, "dry_base must be 1 or more"),
        ({"logprobs": -1}, "logprobs must be a whole number from 0 to 100"),
    ],
)
def test_further_options_out_of_range(options, message):
    with pytest.raises(OptionError, match=message):
        Sampling(**options)


@pytest.mark.parametrize("temperature", [0, 1.0])
def test_a_grammar_is_kept_even_where_all_it_allows_was_ruled_out(model, temperature):
    letter = {name: model.tokenize(name, special=False)[0] for name in "abc"}
    row = np.full(model.n_vocab, -np.inf, np.float32)
    row[letter["c"]] = 5.0
    sampling = Sampling(temperature=temperature, top_k=0, grammar='root ::= "a" | "b"', seed=1)
    sampler = Sampler(sampling, model, model.n_vocab)
    assert sampler.sample((row,), np.ones(1)) in (letter["a"], letter["b"])
    sampler.close()


def test_where_a_filter_rules_out_all_that_a_grammar_allows_the_blend_without_it_decides(model):
    letters = [model.tokenize(name, special=False)[0] for name in "abc"]
    blend = np.zeros(model.n_vocab, np.float32)
    blend[letters] = np.log([6.0, 3.0, 900.0])
    filtered = np.full(model.n_vocab, -np.inf, np.float32)
    filtered[letters[2]] = 0
    tokens = []
    for seed in range(3000):
        sampler = Sampler(Sampling(**EVERYTHING, grammar='root ::= "a" | "b"', seed=seed), model, model.n_vocab)
        sampler.unfiltered = (blend,), np.ones(1)
        tokens.append(letters.index(sampler.sample((filtered,), np.ones(1))))
        sampler.close()
    assert_drawn_from(np.array(tokens), [2 / 3, 1 / 3])
    # What the filter leaves counts before what it does not.
    filtered[letters[1]] = -5
    sampler = Sampler(Sampling(**EVERYTHING, grammar='root ::= "a" | "b"', seed=1), model, model.n_vocab)
    sampler.unfiltered = (blend,), np.ones(1)
    assert sampler.sample((filtered,), np.ones(1)) == letters[1]
    sampler.close()


def test_a_bias_against_all_that_a_grammar_allows_is_an_error_and_no_abort(model):
    bias = {model.tokenize(name, special=False)[0]: -math.inf for name in "ab"}
    sampler = Sampler(Sampling(grammar='root ::= "a" | "b"', logit_bias=bias, seed=1), model, model.n_vocab)
    with pytest.raises(DecodeError, match="forbids all that the grammar allows"):
        sampler.sample((np.zeros(model.n_vocab, np.float32),), np.ones(1))
    sampler.close()


def checked_with(model, sampling, rows, factors, drafter, count):
    """One token by a draft from `drafter`'s logits each, with a seed each; and how many were the draft's."""
    tokens, taken = [], 0
    for seed in range(count):
        sampler = Sampler(dataclasses.replace(sampling, seed=seed), model, len(rows[0]))
        draft = sampler.draft(drafter, 0)
        token, _ = sampler.check(draft, rows, factors)
        tokens.append(token)
        taken += token == draft.token
        sampler.close()
    return np.array(tokens), taken / count


DRAFTER = np.log(np.array([0.1, 0.4, 0.1, 0.35, 0.05], np.float32))


@pytest.mark.parametrize(
    ("options", "expected", "q"),
    [
        ({}, PROBABILITIES, [0.1, 0.4, 0.1, 0.35, 0.05]),
        ({"top_k": 2}, [5 / 7, 2 / 7, 0, 0, 0], [0, 0.4 / 0.75, 0, 0.35 / 0.75, 0]),
        ({"top_p": 0.8}, [50 / 85, 20 / 85, 15 / 85, 0, 0], [0.1 / 0.85, 0.4 / 0.85, 0, 0.35 / 0.85, 0]),
        ({"logit_bias": {0: -math.inf}}, [0, 0.4, 0.3, 0.2, 0.1], [0.1, 0.4, 0.1, 0.35, 0.05]),
    ],
)
def test_a_checked_draft_is_a_draw_from_the_blend_and_accepted_as_often_as_can_be(model, options, expected, q):
    row = np.log(np.array(PROBABILITIES, np.float32))
    sampling = Sampling(**(EVERYTHING | options))
    tokens, taken = checked_with(model, sampling, (row,), np.ones(1), DRAFTER, 5000)
    assert_drawn_from(tokens, expected)
    overlap = np.minimum(expected, q).sum() if "top_p" not in options else None
    if overlap is not None:
        assert taken == pytest.approx(overlap, abs=0.03)


def test_the_overlap_told_is_the_probability_that_the_draft_was_taken(model):
    row = np.log(np.array(PROBABILITIES, np.float32))
    sampler = Sampler(Sampling(**EVERYTHING, seed=1), model, 5)
    _, overlap = sampler.check(sampler.draft(DRAFTER, 0), (row,), np.ones(1))
    assert overlap == pytest.approx(0.1 + 0.2 + 0.1 + 0.1 + 0.05, abs=1e-6)
    assert sampler.check(Draft.certain(1), (row,), np.ones(1))[1] == pytest.approx(0.2, abs=1e-6)
    sampler.close()


@pytest.mark.parametrize("row", [DRAFTER, None], ids=["drawn", "certain"])
def test_a_checked_draft_keeps_to_the_grammar_and_the_distribution_among_what_it_allows(model, row):
    letters = [model.tokenize(letter, special=False)[0] for letter in "abc"]
    blend, drafter = np.zeros(model.n_vocab, np.float32), np.zeros(model.n_vocab, np.float32)
    blend[letters], drafter[letters] = np.log([6.0, 3.0, 9.0]), np.log([2.0, 60.0, 60.0])
    tokens = []
    for seed in range(4000):
        sampler = Sampler(Sampling(**EVERYTHING, grammar='root ::= "a" | "b"', seed=seed), model, model.n_vocab)
        draft = Draft.certain(letters[1]) if row is None else sampler.draft(drafter, 0)
        tokens.append(letters.index(sampler.check(draft, (blend,), np.ones(1))[0]))
        sampler.close()
    assert_drawn_from(np.array(tokens), [2 / 3, 1 / 3])


def test_greedy_takes_a_draft_only_where_it_is_the_likeliest(model):
    row = np.array([0, 3, 2, 3], np.float32)
    for options in ({}, {"presence_penalty": 0.5}):
        sampler = Sampler(Sampling(temperature=0, **options), model, 4)
        assert sampler.check(Draft.certain(3), (row,), np.ones(1)) == (1, 0.0)
        assert sampler.draft(np.array([5, 6, 6, 0], np.float32), 0).token == 1
        sampler.close()


def test_penalties_see_only_what_was_taken(model):
    row = np.array([1.0, 0.9, 0.1], np.float32)
    sampler = Sampler(Sampling(temperature=0, presence_penalty=0.5), model, 3)
    assert sampler.check(Draft.certain(1), (row,), np.ones(1))[0] == 0  # 1 was refused, so it is not penalised
    assert sampler.check(Draft.certain(1), (row,), np.ones(1)) == (1, 1.0)
    sampler.close()
