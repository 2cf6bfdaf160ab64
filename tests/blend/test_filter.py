"""The reference, worked out by hand on four tokens; and what `Filter` accepts."""

import math

import numpy as np
import pytest

from eft_gguf import Blend, Filter, OptionError
from eft_gguf.blend.equation import coefficients, log_softmax, members_needed
from eft_gguf.blend.filter import filtered_logits, min_p_set, top_p_set

UNIFORM = [0.25] * 4
BOTH = coefficients(1, 1, [1])


def blended(base, untuned, *tuned, factors=BOTH, **options):
    with np.errstate(divide="ignore"):
        rows = [np.log(np.array(p)).astype(np.float32) for p in (base, untuned, *tuned)]
    return np.exp(log_softmax(filtered_logits(rows, factors, Filter(**options))))


def test_tuned_top_p_scales_up_only_inside_the_tuned_models_set():
    base, tuned = [0.1, 0.2, 0.3, 0.4], [0.5, 0.3, 0.15, 0.05]
    # 0.5 + 0.3 reach 0.8. Inside tuned · base / untuned: 0.5 · 0.4 and 0.3 · 0.8; outside the tuned model's 0.15, 0.05.
    result = blended(base, UNIFORM, tuned, tuned_top_p=0.8)
    np.testing.assert_allclose(result, np.array([20, 24, 15, 5]) / 64, rtol=1e-6)


def test_with_several_traits_the_set_is_that_of_the_tuned_side_as_a_whole():
    first, second = [0.81, 0.09, 0.09, 0.01], [0.01, 0.09, 0.81, 0.09]
    # Half of each: the roots of the products, 0.09 : 0.09 : 0.27 : 0.03, of which token 2 is more than half.
    base = [0.3, 0.3, 0.1, 0.3]
    result = blended(base, UNIFORM, first, second, factors=coefficients(1, 1, [0.5, 0.5]), tuned_top_p=0.5)
    np.testing.assert_allclose(result, np.array([9, 9, 27 * 0.4, 3]) / 31.8, rtol=1e-6)


def test_base_top_p_keeps_the_smallest_set_that_reaches_p():
    base = [0.4, 0.3, 0.2, 0.1]
    for p, left in ((0.3, [4]), (0.7, [4, 3]), (0.71, [4, 3, 2]), (0.95, [4, 3, 2, 1])):
        expected = np.array(left + [0] * (4 - len(left))) / sum(left)
        np.testing.assert_allclose(blended(base, UNIFORM, UNIFORM, base_top_p=p), expected, rtol=1e-6)


def test_base_min_p_keeps_what_is_p_times_as_likely_as_the_likeliest():
    base = [0.4, 0.3, 0.2, 0.1]
    for p, left in ((1, [4]), (0.6, [4, 3]), (0.5, [4, 3, 2]), (0.25, [4, 3, 2, 1])):
        expected = np.array(left + [0] * (4 - len(left))) / sum(left)
        np.testing.assert_allclose(blended(base, UNIFORM, UNIFORM, base_min_p=p), expected, rtol=1e-6)


def test_untuned_floor_takes_away_what_a_tiny_denominator_gives():
    untuned = [0.5, 0.25, 0.24, 0.01]
    # tuned / untuned would be 25 for the last token; with untuned at least 0.25 it is 1, and 0.5 for the first.
    result = blended(UNIFORM, untuned, UNIFORM, untuned_floor=math.log(0.25))
    np.testing.assert_allclose(result, np.array([1, 2, 2, 2]) / 7, rtol=1e-6)


def test_untuned_floor_holds_for_every_untuned_model():
    untuned, own = [0.5, 0.25, 0.24, 0.01], [0.01, 0.24, 0.25, 0.5]
    rows = [np.log(np.array(p)).astype(np.float32) for p in (UNIFORM, untuned, UNIFORM, UNIFORM, own)]
    factors = coefficients(1, 1, [1, 1], untuned=[0, 1])
    # Floored at 0.25 the two are 0.5, 0.25, 0.25, 0.25 and 0.25, 0.25, 0.25, 0.5: their product divides.
    result = np.exp(log_softmax(filtered_logits(rows, factors, Filter(untuned_floor=math.log(0.25)), (1, 4))))
    np.testing.assert_allclose(result, np.array([1, 2, 2, 1]) / 6, rtol=1e-6)
    # The first trait alone at weight 0: the floor still counts, for the other's untuned model.
    factors = coefficients(1, 1, [0, 1], untuned=[0, 1])
    assert Filter(untuned_floor=-2).in_force(factors, (1, 4)) == Filter(untuned_floor=-2)
    assert Filter(untuned_floor=-2).in_force(factors) == Filter()


def test_filters_combine():
    base, untuned, tuned = [0.4, 0.3, 0.2, 0.1], [0.5, 0.25, 0.24, 0.01], [0.4, 0.3, 0.2, 0.1]
    options = {"untuned_floor": math.log(0.25), "base_top_p": 0.9, "base_min_p": 0.6, "tuned_top_p": 0.4}
    # Floor: untuned is 0.5, 0.25, 0.25, 0.25. The tuned set is token 0: 0.4 · 0.4 / 0.5; outside it 0.3. base_min_p
    # leaves these two.
    result = blended(base, untuned, tuned, **options)
    np.testing.assert_allclose(result, np.array([0.32, 0.3, 0, 0]) / 0.62, rtol=1e-6)


def test_of_equal_tokens_the_smaller_ids_are_in_the_set():
    assert top_p_set(np.log(UNIFORM), 0.5).tolist() == [True, True, False, False]
    assert top_p_set(np.log([0.2, 0.4, 0.2, 0.2]), 0.7).tolist() == [True, True, True, False]
    assert min_p_set(np.log([0.2, 0.4, 0.2, 0.2]), 0.5).all()


def test_if_nothing_would_be_left_the_blends_likeliest_token_stays():
    # The base allows token 0 alone, which the tuned model rules out.
    result = blended([0.7, 0.1, 0.1, 0.1], UNIFORM, [0, 0.2, 0.5, 0.3], base_top_p=0.5)
    assert result.tolist() == [0, 0, 1, 0]
    assert blended([0.7, 0.1, 0.1, 0.1], UNIFORM, [0, 0.2, 0.5, 0.3], base_min_p=1).tolist() == [0, 0, 1, 0]


def test_a_token_impossible_for_the_untuned_model_comes_back_with_a_floor():
    untuned, tuned = [0.5, 0.5, 0, 0], [0.25, 0.25, 0.25, 0.25]
    assert blended(UNIFORM, untuned, tuned)[2] == 0
    np.testing.assert_allclose(blended(UNIFORM, untuned, tuned, untuned_floor=math.log(0.5)), UNIFORM, rtol=1e-6)


@pytest.mark.parametrize(
    ("dials", "options", "members"),
    [
        ((1, 1), {}, [0, 1, 2]),
        ((1, 0), {"untuned_floor": -7, "base_top_p": 0.9, "base_min_p": 0.1}, [0]),
        ((1, 0), {"tuned_top_p": 0.9}, [0, 1]),
        ((0, 1), {"tuned_top_p": 0.9, "untuned_floor": -7}, [2]),
        ((0, 1), {"base_top_p": 0.9}, [0, 2]),
        ((0, 1), {"base_min_p": 0.1}, [0, 2]),
        ((0, 1), {"base_top_p": 1, "base_min_p": 0}, [2]),
        ((0, 0), {"base_min_p": 0.1}, [0, 1]),
        ((0.7, 0.3), {"untuned_floor": -7}, [0, 2]),
        ((0.7, 0.3), {"untuned_floor": -7, "tuned_top_p": 0.9}, [0, 1, 2]),
    ],
)
def test_only_members_that_the_blend_or_the_filter_looks_at_are_needed(dials, options, members):
    assert members_needed(coefficients(*dials, [1]), Filter(**options)) == members


@pytest.mark.parametrize("factors", [BOTH, coefficients(0, 1, [1]), coefficients(1, 0, [1])])
def test_what_changes_nothing_is_not_in_force(factors):
    assert Filter(tuned_top_p=1, base_top_p=1, base_min_p=0).in_force(factors) == Filter()
    assert Filter().in_force(factors) == Filter()


@pytest.mark.parametrize(
    ("name", "value", "wanted"),
    [
        ("tuned_top_p", 0, "above 0 and at most 1"),
        ("tuned_top_p", 1.01, "above 0 and at most 1"),
        ("base_top_p", -0.5, "above 0 and at most 1"),
        ("base_top_p", "0.9", "above 0 and at most 1"),
        ("base_top_p", True, "above 0 and at most 1"),
        ("base_min_p", -0.1, "between 0 and 1"),
        ("base_min_p", math.nan, "between 0 and 1"),
        ("untuned_floor", 0.1, "a finite number, 0 or less"),
        ("untuned_floor", -math.inf, "a finite number, 0 or less"),
    ],
)
def test_values_out_of_range_are_named_with_the_range(name, value, wanted):
    with pytest.raises(OptionError, match=f"{name} must be {wanted}, not {value!r}"):
        Filter(**{name: value})


def test_a_blend_takes_no_filter_of_another_kind():
    with pytest.raises(OptionError, match="filter must be a Filter"):
        Blend(filter={"base_min_p": 0.1})
