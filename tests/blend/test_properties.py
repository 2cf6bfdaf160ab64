"""What holds for every blend, whatever the logits: of the reference and of the kernels alike."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eft_gguf import Filter
from eft_gguf.blend import kernels
from eft_gguf.blend.equation import blend_logits, coefficients, log_softmax, members_needed
from eft_gguf.blend.filter import filtered_logits
from eft_gguf.blend.filter_kernels import FilteredBlend

DIALS = st.sampled_from([0.0, 0.25, 0.7, 1.0, 1.5, -0.5])
WEIGHTS = st.sampled_from([0.0, 0.25, 0.5, 1.0, 2.0])
UNFILTERED = Filter()
FILTERS = st.one_of(
    st.just(UNFILTERED),
    st.builds(
        Filter,
        st.sampled_from([None, 0.3, 0.9]),
        st.sampled_from([None, 0.3, 0.95]),
        st.sampled_from([None, 0.01, 0.5]),
        st.sampled_from([None, -1.0, -7.0]),
    ),
)


def by_the_reference(rows, factors, filter, untuned=(1,)):
    if filter.in_force(factors, untuned) == UNFILTERED:
        return blend_logits(rows, factors)
    return filtered_logits(rows, factors, filter, untuned)


def by_the_kernels(rows, factors, filter, untuned=(1,)):
    members = members_needed(factors, filter)
    used = tuple(rows[member] for member in members)
    if filter.in_force(factors, untuned) == UNFILTERED:
        out = np.empty(len(rows[0]), np.float32)
        kernels.blend_into(used, np.array([factors[member] for member in members]), out)
        return out.astype(np.float64)
    return FilteredBlend(len(rows[0]), untuned)(used, members, factors, filter).astype(np.float64)


both = pytest.mark.parametrize("blended", [by_the_reference, by_the_kernels])
always = settings(deadline=None, max_examples=60, derandomize=True)


@dataclass
class Case:
    """Logits of base, untuned and the traits; all multiples of 1/64, so that moving them by whole numbers is exact."""

    rows: list[np.ndarray]
    knowledge: float
    behaviour: float
    weights: list[float]
    filter: Filter

    @property
    def factors(self):
        return coefficients(self.knowledge, self.behaviour, self.weights)


@st.composite
def cases(draw, impossible=(0.0, 0.05)):
    size = draw(st.sampled_from([4, 60, kernels.BLOCK, 2 * kernels.BLOCK + 3]))
    traits = draw(st.integers(1, 3))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    scale = draw(st.sampled_from([0.5, 4, 12]))
    rows = [(np.round(rng.normal(size=size) * scale * 64) / 64).astype(np.float32) for _ in range(2 + traits)]
    for row in rows:
        row[1:][rng.random(size - 1) < draw(st.sampled_from(impossible))] = -np.inf
    weights = draw(st.lists(WEIGHTS, min_size=traits, max_size=traits))
    return Case(rows, draw(DIALS), draw(DIALS), weights, draw(FILTERS))


def assert_same(left, right, tolerance=3e-4):
    np.testing.assert_array_equal(np.isfinite(left), np.isfinite(right))
    np.testing.assert_allclose(np.exp(log_softmax(left)), np.exp(log_softmax(right)), atol=tolerance)


@both
@always
@given(case=cases())
def test_probabilities_sum_to_one(blended, case):
    result = blended(case.rows, case.factors, case.filter)
    # Token 0 is possible for every model, so that something always is.
    assert np.isfinite(result).any()
    assert np.exp(log_softmax(result)).sum() == pytest.approx(1)


@both
@always
@given(case=cases(), member=st.integers(0, 4), constant=st.sampled_from([-64, -3, 1, 40]))
def test_a_constant_added_to_the_logits_of_a_model_changes_nothing(blended, case, member, constant):
    moved = [row + np.float32(constant) if m == member else row for m, row in enumerate(case.rows)]
    assert_same(blended(moved, case.factors, case.filter), blended(case.rows, case.factors, case.filter))


@both
@always
@given(case=cases())
def test_filters_that_keep_everything_change_nothing(blended, case):
    idle = Filter(tuned_top_p=1, base_top_p=1, base_min_p=0)
    expected = blended(case.rows, case.factors, UNFILTERED)
    np.testing.assert_array_equal(blended(case.rows, case.factors, idle), expected)
    # And beside another filter they leave that one as it is.
    floored = Filter(untuned_floor=-3)
    beside = replace(idle, untuned_floor=-3)
    np.testing.assert_array_equal(blended(case.rows, case.factors, beside), blended(case.rows, case.factors, floored))


@both
@always
@given(case=cases(), place=st.integers(0, 2))
def test_a_trait_of_weight_one_beside_traits_of_weight_zero_is_that_trait_alone(blended, case, place):
    place %= len(case.weights)
    weights = [float(trait == place) for trait in range(len(case.weights))]
    together = blended(case.rows, coefficients(case.knowledge, case.behaviour, weights), case.filter)
    rows = [*case.rows[:2], case.rows[2 + place]]
    alone = blended(rows, coefficients(case.knowledge, case.behaviour, [1.0]), case.filter)
    assert_same(together, alone)


@both
@always
@given(case=cases(), data=st.data())
def test_the_order_of_traits_does_not_matter(blended, case, data):
    order = data.draw(st.permutations(range(len(case.weights))))
    rows = [*case.rows[:2], *(case.rows[2 + trait] for trait in order)]
    factors = coefficients(case.knowledge, case.behaviour, [case.weights[trait] for trait in order])
    assert_same(blended(rows, factors, case.filter), blended(case.rows, case.factors, case.filter))


@both
@always
@given(case=cases(impossible=(0.0, 0.5, 0.95)), scale=st.sampled_from([1.0, 1e5, 1e20, 1e36]))
def test_extreme_and_impossible_logits_stay_finite(blended, case, scale):
    rows = [row * np.float32(scale) for row in case.rows]
    result = blended(rows, case.factors, case.filter)
    assert not np.isnan(result).any()
    assert not (result == np.inf).any()
    # −inf in a model rules a token out where that model has part in the blend, and nothing else does without a filter.
    if case.filter.in_force(case.factors) == UNFILTERED and scale == 1:
        used = [row for row, factor in zip(rows, case.factors, strict=True) if factor != 0]
        ruled_out = np.any([row == -np.inf for row in used], axis=0)
        np.testing.assert_array_equal(result == -np.inf, ruled_out)


@both
@always
@given(case=cases(), data=st.data())
def test_an_untuned_model_of_its_own_that_is_the_one_of_all_changes_nothing(blended, case, data):
    traits = len(case.weights)
    own = data.draw(st.lists(st.booleans(), min_size=traits, max_size=traits))
    numbers = [sum(own[: trait + 1]) if own[trait] else 0 for trait in range(traits)]
    factors = coefficients(case.knowledge, case.behaviour, case.weights, numbers)
    rows = [*case.rows, *[case.rows[1]] * sum(own)]
    untuned = (1, *range(2 + traits, 2 + traits + sum(own)))
    assert len(factors) == len(rows)
    result = blended(rows, factors, case.filter, untuned)
    expected = blended(case.rows, case.factors, case.filter)
    possible = np.isfinite(case.rows[1])  # where it is not, factors of 0 and not 0 differ
    assert_same(result[possible], expected[possible])
