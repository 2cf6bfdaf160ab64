import math

import numpy as np
import pytest
from scipy.stats import chisquare

from eft_gguf import OptionError, Sampling
from eft_gguf.blend.equation import blend_logits, coefficients, log_softmax
from eft_gguf.engine.sampling import Sampler

DRAWS = 20_000
SIGNIFICANCE = (
    1e-4  # of each chi-square test: with some ten tests, a false alarm in a thousand runs (and seeds are fixed)
)

# What is left of [0.5, 0.2, 0.15, 0.1, 0.05] by each option, worked out by hand.
PROBABILITIES = [0.5, 0.2, 0.15, 0.1, 0.05]
EVERYTHING = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0}


def draw(sampling, rows, factors, count=DRAWS):
    sampler = Sampler(sampling, len(rows[0]))
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
def test_draws_follow_the_truncated_distribution(options, expected):
    row = np.log(np.array(PROBABILITIES, np.float32))
    sampling = Sampling(**(EVERYTHING | options), seed=11)
    assert_drawn_from(draw(sampling, (row,), np.ones(1)), expected)


@pytest.mark.parametrize(("knowledge", "behaviour"), [(1, 1), (1.3, 0.5), (0.5, 2)])
def test_draws_follow_the_blended_distribution(knowledge, behaviour):
    rng = np.random.default_rng(5)
    rows = tuple(rng.normal(size=12).astype(np.float32) for _ in range(3))
    factors = coefficients(knowledge, behaviour, [1])
    tokens = draw(Sampling(**EVERYTHING, seed=12), rows, np.array(factors))
    assert_drawn_from(tokens, np.exp(log_softmax(blend_logits(rows, factors))))


def test_the_same_seed_gives_the_same_draws_and_another_seed_others():
    row = np.zeros(50, np.float32)
    draws = [draw(Sampling(**EVERYTHING, seed=seed), (row,), np.ones(1), 40).tolist() for seed in (1, 1, 2)]
    assert draws[0] == draws[1] != draws[2]


def test_without_a_seed_one_is_drawn_and_told():
    seeds = {Sampler(Sampling(), 8).seed for _ in range(4)}
    assert len(seeds) == 4
    row = np.zeros(50, np.float32)
    sampler = Sampler(Sampling(**EVERYTHING), 50)
    tokens = [sampler.sample((row,), np.ones(1)) for _ in range(20)]
    assert tokens == draw(Sampling(**EVERYTHING, seed=sampler.seed), (row,), np.ones(1), 20).tolist()


def test_temperature_zero_takes_the_most_likely_token():
    row = np.array([0, 3, 2, 3], np.float32)
    assert set(draw(Sampling(temperature=0), (row,), np.ones(1), 5)) == {1}


def test_repeat_penalty_moves_greedy_choice_off_a_repeated_token():
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
