from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eft_gguf import Filter
from eft_gguf.blend import kernels
from eft_gguf.blend.equation import coefficients, log_softmax, members_needed
from eft_gguf.blend.filter import filtered_logits
from eft_gguf.blend.filter_kernels import FEW, FilteredBlend

SIZES = [1, 2, 5, FEW + 1, kernels.BLOCK - 1, kernels.BLOCK, kernels.BLOCK + 1, 3 * kernels.BLOCK + 7]
DIALS = st.sampled_from([0.0, 0.3, 0.7, 1.0, 1.5, -0.5])
P = st.sampled_from([None, 0.05, 0.25, 0.5, 0.9, 0.95, 0.9999, 1.0])


@st.composite
def cases(draw):
    """Rows of base, untuned, 1 to 3 tuned and further untuned models, some entries −inf, some equal; their factors; a
    filter; the places of the untuned models.
    """
    size = draw(st.sampled_from(SIZES))
    traits = draw(st.integers(1, 3))
    numbers = draw(st.sampled_from([[0] * traits, [0] * traits, [0, 1, 0][:traits], [1, 1, 2][:traits]]))
    untuned = (1, *range(2 + traits, 2 + traits + max(numbers)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    rows = [
        (rng.normal(size=size) * draw(st.sampled_from([0.0, 0.1, 5, 30]))) for _ in range(2 + traits + max(numbers))
    ]
    if draw(st.booleans()):
        rows = [np.round(row) for row in rows]  # many equal logits
    rows = [row.astype(np.float32) for row in rows]
    for row in rows:
        row[rng.random(size) < draw(st.sampled_from([0.0, 0.05, 0.9]))] = -np.inf
    weights = draw(st.lists(st.sampled_from([0.0, 0.3, 0.5, 1.0]), min_size=traits, max_size=traits))
    factors = coefficients(draw(DIALS), draw(DIALS), weights, numbers)
    floor = draw(st.sampled_from([None, 0.0, -1.0, -7.0, -50.0]))
    return rows, factors, Filter(draw(P), draw(P), draw(st.sampled_from([None, 0.0, 0.01, 0.5, 1.0])), floor), untuned


def run(rows, factors, filter, untuned=(1,)):
    members = members_needed(factors, filter) or [1]
    return FilteredBlend(len(rows[0]), untuned)(tuple(rows[m] for m in members), members, factors, filter).astype(
        np.float64
    )


@settings(deadline=None, max_examples=300)
@given(cases())
def test_kernels_agree_with_the_reference(case):
    rows, factors, filter, untuned = case
    result = run(rows, factors, filter, untuned)
    assert not np.isnan(result).any() and not (result == np.inf).any()
    expected = filtered_logits(rows, factors, filter, untuned)
    kept = np.isfinite(expected)
    np.testing.assert_array_equal(np.isfinite(result), kept)
    if kept.any():
        # Where the two top-p sets differ, logits do too, by far more than this.
        tolerance = 1e-5 + 3e-7 * np.abs(result[kept]).max()
        difference = (result - result[kept].max())[kept] - (expected - expected[kept].max())[kept]
        assert np.abs(difference).max() <= tolerance


@settings(deadline=None, max_examples=100)
@given(cases())
def test_properties(case):
    rows, factors, filter, untuned = case
    result = run(rows, factors, filter, untuned)
    if np.isfinite(result).any():
        assert np.exp(log_softmax(result)).sum() == pytest.approx(1)
    # What the base finds implausible never leaves nothing.
    without_base = run(rows, factors, replace(filter, base_top_p=None, base_min_p=None), untuned)
    assert np.isfinite(result).any() == np.isfinite(without_base).any()


@pytest.mark.parametrize(
    "filter",
    [
        Filter(tuned_top_p=0.9),
        Filter(base_top_p=0.9),
        Filter(base_min_p=0.1),
        Filter(untuned_floor=-7),
        Filter(0.8, 0.95, 0.01, -5),
    ],
    ids=str,
)
@pytest.mark.parametrize("member", [0, 1, 2])
def test_a_constant_added_to_a_models_logits_changes_nothing(filter, member):
    rng = np.random.default_rng(member)
    rows = [np.round(rng.normal(size=3000) * 4, 2).astype(np.float32) for _ in range(3)]
    factors = coefficients(1.2, 0.8, [1])
    before = log_softmax(run(rows, factors, filter))
    rows[member] = rows[member] + np.float32(64)
    np.testing.assert_allclose(log_softmax(run(rows, factors, filter)), before, atol=2e-4)


@pytest.mark.parametrize("factors", [coefficients(1, 1, [1]), coefficients(0.5, 2, [0.7])])
def test_p_of_1_changes_nothing(factors):
    rng = np.random.default_rng(3)
    rows = tuple(rng.normal(size=2000).astype(np.float32) * 6 for _ in range(3))
    plain = np.empty(2000, np.float32)
    kernels.blend_into(rows, np.array(factors), plain)
    np.testing.assert_array_equal(run(rows, factors, Filter(1, 1, 0)), plain)


@pytest.mark.parametrize("filter", [Filter(0.9), Filter(None, 0.9), Filter(None, None, 0.1), Filter(0.9, 0.9, 0.1, -7)])
@pytest.mark.parametrize("scale", [1e5, 1e20, 1e30])
def test_extreme_logits_stay_finite(filter, scale):
    rng = np.random.default_rng(4)
    rows = [(rng.normal(size=1500) * scale).astype(np.float32) for _ in range(3)]
    result = run(rows, coefficients(1, 1, [1]), filter)
    assert np.isfinite(result).any() and not np.isnan(result).any() and not (result == np.inf).any()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("member", [0, 1, 2])
def test_logits_that_are_no_numbers_do_not_spread(member, bad):
    rng = np.random.default_rng(5)
    rows = [rng.normal(size=1500).astype(np.float32) for _ in range(3)]
    rows[member][[3, 700]] = bad
    for filter in (Filter(0.9), Filter(None, 0.9), Filter(None, None, 0.1), Filter(0.9, 0.9, 0.1, -7)):
        result = run(rows, coefficients(1, 1, [1]), filter)
        expected = filtered_logits(rows, coefficients(1, 1, [1]), filter)
        np.testing.assert_allclose(log_softmax(result), log_softmax(expected), atol=1e-4)
        rows[member][:] = bad  # and the whole row
        assert not np.isnan(run(rows, coefficients(1, 1, [1]), filter)).any()
        rows[member][:] = rng.normal(size=1500)
        rows[member][[3, 700]] = bad


@pytest.mark.parametrize("size", [3, 5000])
def test_of_equal_tokens_the_smaller_ids_stay(size):
    row = np.zeros(size, np.float32)
    result = run([row, row, row], coefficients(1, 1, [1]), Filter(base_top_p=0.5))
    assert np.flatnonzero(np.isfinite(result)).tolist() == list(range((size + 1) // 2))


def test_only_the_shared_part_of_padded_vocabularies_is_read():
    rows = [np.array(row, np.float32) for row in ([1, 2, 3, 99], [1, 1, 1], [1, 1, 1, 99])]
    blend = FilteredBlend(3)
    for filter in (Filter(0.9), Filter(None, 0.99), Filter(None, None, 0.01), Filter(None, None, None, -3)):
        assert int(np.argmax(blend(tuple(rows), [0, 1, 2], coefficients(1, 1, [1]), filter))) == 2


@pytest.fixture
def asked(monkeypatch):
    """The filters that the reference was asked about, because the kernels were in doubt."""
    filters = []
    take = FilteredBlend._take_reference
    monkeypatch.setattr(
        FilteredBlend, "_take_reference", lambda self, *of: (filters.append(of[-1]), take(self, *of))[-1]
    )
    return filters


@pytest.mark.parametrize("factors", [coefficients(1, 1, [1]), coefficients(1, 0.7, [1])])
def test_the_kernels_are_hardly_ever_in_doubt(factors, asked):
    for seed in range(40):
        rng = np.random.default_rng(seed)
        rows = [rng.normal(size=30_000).astype(np.float32) * 4 for _ in range(3)]
        run(rows, factors, Filter(0.95, 0.95, 0.1, -7))
        run(rows, factors, Filter(0.9999, 0.9999))
    assert not asked


@pytest.mark.parametrize("filter", [Filter(base_top_p=0.5 + 1e-6), Filter(tuned_top_p=0.5 + 1e-6)])
def test_where_a_set_reaches_p_to_the_last_digit_the_reference_decides(filter, asked):
    # Four of eight equals make 0.5, or a last digit less.
    rows = [np.full(8, logit, np.float32) for logit in (1, 2, 3)]
    factors = coefficients(1, 1, [1])
    np.testing.assert_array_equal(
        np.isfinite(run(rows, factors, filter)), np.isfinite(filtered_logits(rows, factors, filter))
    )
    assert asked == [filter]


def test_where_equal_sums_straddle_the_border_the_reference_decides(asked):
    # As sums of logits 0.3 · 3 + 0.7 · 1 and 0.3 · 1 + 0.7 · 13 / 7 are equal, or differ by rounding.
    rows = [np.zeros(2, np.float32), np.array([1, 13 / 7], np.float32), np.array([3, 1], np.float32)]
    rows = [np.tile(row, 50) for row in rows]
    factors, filter = coefficients(1, 0.3, [1]), Filter(tuned_top_p=0.505)
    np.testing.assert_allclose(
        log_softmax(run(rows, factors, filter)), log_softmax(filtered_logits(rows, factors, filter)), atol=1e-5
    )
    assert asked == [filter]
