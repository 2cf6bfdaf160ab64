import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eft_gguf import Blend, OptionError
from eft_gguf.blend.equation import blend_logits, coefficients, log_softmax


def probabilities(logits):
    return np.exp(log_softmax(logits))


def test_product_of_experts_worked_by_hand():
    base, untuned, tuned = (
        np.log(np.array(p, np.float32)) for p in ([0.4, 0.3, 0.2, 0.1], [0.25] * 4, [0.1, 0.2, 0.2, 0.5])
    )
    # base · tuned / untuned, up to the constant 1/0.25: 0.04, 0.06, 0.04, 0.05 of a sum of 0.19.
    blended = probabilities(blend_logits([base, untuned, tuned], coefficients(1, 1, [1])))
    np.testing.assert_allclose(blended, np.array([4, 6, 4, 5]) / 19, rtol=1e-6)


def test_dials_scale_each_difference_on_its_own():
    base, untuned, tuned = (np.array(z, np.float32) for z in ([1.0, 5.0], [2.0, 2.0], [2.0, 3.0]))
    # z = untuned + 2·(base − untuned) + 0.5·(tuned − untuned) = [2, 2] + 2·[−1, 3] + 0.5·[0, 1]
    np.testing.assert_allclose(blend_logits([base, untuned, tuned], coefficients(2, 0.5, [1])), [0.0, 8.5])


def test_traits_are_weighed_against_one_untuned():
    base, untuned, helpful, cautious = (np.array(z, np.float32) for z in ([0, 0], [1, 1], [3, 1], [1, 5]))
    blended = blend_logits([base, untuned, helpful, cautious], coefficients(1, 1, [0.75, 0.25]))
    np.testing.assert_allclose(blended, [0.75 * 2, 0.25 * 4])


def test_a_trait_with_an_untuned_model_of_its_own_is_measured_against_that():
    base, untuned, helpful, cautious, own = (np.array(z, np.float32) for z in ([4, 0], [1, 1], [3, 1], [1, 5], [2, 3]))
    # untuned + 2·(base − untuned) + 0.5·(1·(helpful − untuned) + 3·(cautious − own))
    expected = [1 + 2 * 3 + 0.5 * (2 + 3 * -1), 1 + 2 * -1 + 0.5 * (0 + 3 * 2)]
    factors = coefficients(2, 0.5, [1, 3], untuned=[0, 1])
    assert factors == (2, -1.5, 0.5, 1.5, -1.5)
    np.testing.assert_allclose(blend_logits([base, untuned, helpful, cautious, own], factors), expected)


@pytest.mark.parametrize(
    ("weights", "untuned", "factors"),
    [
        ([1, 0], [0, 1], (1, -1, 1, 0, 0)),  # a weight of 0 takes the trait's untuned model out as well
        ([0, 1], [0, 1], (1, 0, 0, 1, -1)),
        ([0.5, 0.25], [1, 1], (1, 0, 0.5, 0.25, -0.75)),  # both tuned from the same other model
        ([0.5, 0.25], [1, 2], (1, 0, 0.5, 0.25, -0.5, -0.25)),
        ([0.5, 0.25], [0, 0], (1, -0.75, 0.5, 0.25)),
    ],
)
def test_factors_with_further_untuned_models(weights, untuned, factors):
    assert coefficients(1, 1, weights, untuned) == factors


@pytest.mark.parametrize(
    ("dials", "factors"),
    [
        ((1, 0), (1, 0, 0)),
        ((0, 1), (0, 0, 1)),
        ((0, 0), (0, 1, 0)),
        ((1, 1), (1, -1, 1)),
        ((0.7, 0.3), (0.7, 0, 0.3)),
    ],
)
def test_a_model_without_part_in_the_blend_has_factor_zero(dials, factors):
    assert coefficients(*dials, [1.0]) == factors


@given(st.floats(-3, 3), st.floats(-3, 3), st.lists(st.floats(-2, 2), min_size=1, max_size=4), st.floats(-50, 50))
def test_factors_sum_to_one_so_a_constant_on_one_model_changes_nothing(knowledge, behaviour, weights, constant):
    factors = coefficients(knowledge, behaviour, weights)
    assert math.fsum(factors) == pytest.approx(1, abs=1e-9)
    rng = np.random.default_rng(1)
    rows = [rng.normal(size=8).astype(np.float32) for _ in factors]
    moved = [rows[0] + np.float32(constant), *rows[1:]]
    np.testing.assert_allclose(
        log_softmax(blend_logits(rows, factors)), log_softmax(blend_logits(moved, factors)), atol=1e-3
    )


def test_a_token_that_any_used_model_rules_out_is_ruled_out():
    inf = np.inf
    base, untuned, tuned = (np.array(z, np.float32) for z in ([-inf, 0, 0, 0], [0, -inf, 0, 0], [0, 0, -inf, 0]))
    assert blend_logits([base, untuned, tuned], coefficients(1, 1, [1])).tolist() == [-inf, -inf, -inf, 0]
    assert blend_logits([base, untuned, tuned], coefficients(1, 0, [1])).tolist() == [-inf, 0, 0, 0]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, "1", None, True])
@pytest.mark.parametrize("dial", ["knowledge", "behaviour", "trait"])
def test_dials_must_be_finite_numbers(dial, value):
    options = {"traits": {"helpful": value}} if dial == "trait" else {dial: value}
    with pytest.raises(OptionError, match=f"{'helpful' if dial == 'trait' else dial}.*finite"):
        Blend(**options)


def test_unnamed_traits_keep_their_weights_and_unknown_ones_are_refused():
    family = {"helpful": 1.0, "cautious": 0.0}
    assert Blend(traits={"cautious": 0.5}).weights(family) == (1.0, 0.5)
    with pytest.raises(OptionError, match="unknown trait 'kind': this family has helpful, cautious"):
        Blend(traits={"kind": 1}).weights(family)
