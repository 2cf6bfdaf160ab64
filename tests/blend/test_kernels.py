import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eft_gguf.blend import kernels
from eft_gguf.blend.equation import blend_logits, coefficients, log_softmax

SIZES = [1, 2, 5, kernels.BLOCK - 1, kernels.BLOCK, kernels.BLOCK + 1, 3 * kernels.BLOCK + 7]


@st.composite
def cases(draw):
    """Rows of 1 to 4 models, some entries −inf, with the factors of dials and weights."""
    size = draw(st.sampled_from(SIZES))
    models = draw(st.integers(1, 4))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    rows = tuple(
        (rng.normal(size=size) * draw(st.sampled_from([0.1, 5, 30]))).astype(np.float32) for _ in range(models)
    )
    for row in rows:
        row[rng.random(size) < draw(st.sampled_from([0.0, 0.05]))] = -np.inf
    factors = np.array(draw(st.lists(st.floats(-2, 2).filter(bool), min_size=models, max_size=models)))
    return rows, factors


@settings(deadline=None, max_examples=150)
@given(cases())
def test_kernels_agree_with_the_equation(case):
    rows, factors = case
    expected = blend_logits(rows, factors).astype(np.float32)
    blended = np.empty_like(expected)
    kernels.blend_into(rows, factors, blended)
    # To the bit but for contraction of multiply and add, which may round once where NumPy rounds twice.
    np.testing.assert_allclose(blended, expected, rtol=1e-6, atol=1e-12)

    candidates = np.zeros(len(expected), kernels.CANDIDATE)
    kernels.blend_candidates(rows, factors, candidates)
    np.testing.assert_array_equal(candidates["logit"], blended)
    np.testing.assert_array_equal(candidates["id"], np.arange(len(expected)))

    assert kernels.blend_argmax(rows, factors, len(expected)) == int(np.argmax(blended))


@settings(deadline=None, max_examples=150)
@given(cases(), st.sampled_from([1, 2, 3, 4, 5, 40, 10**6]))
def test_the_top_candidates_hold_the_k_most_likely(case, k):
    rows, factors = case
    blended = np.empty(len(rows[0]), np.float32)
    kernels.blend_into(rows, factors, blended)
    candidates = np.zeros(len(blended), kernels.CANDIDATE)
    count = kernels.blend_top(rows, factors, k, candidates)
    kept = candidates[:count]
    assert count >= min(k, len(blended))
    assert (np.diff(kept["id"]) > 0).all()
    np.testing.assert_array_equal(kept["logit"], blended[kept["id"]])
    largest = np.sort(blended)[::-1][:k]
    np.testing.assert_array_equal(np.sort(kept["logit"])[::-1][:k], largest)


def test_few_others_are_kept_with_the_most_likely():
    row = np.random.default_rng(0).normal(size=150 * kernels.BLOCK).astype(np.float32)
    candidates = np.zeros(len(row), kernels.CANDIDATE)
    assert 40 <= kernels.blend_top((row,), np.ones(1), 40, candidates) < 80


@settings(deadline=None, max_examples=100)
@given(cases(), st.integers(0, 2**31))
def test_log_probability_agrees_with_the_equation(case, pick):
    rows, factors = case
    expected = blend_logits(rows, factors)
    if not np.isfinite(expected).any():
        return
    token = pick % len(expected)
    got = kernels.blend_log_probability(rows, factors, len(expected), token)
    assert got == pytest.approx(log_softmax(expected)[token], rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("behaviour", [-1.0, 0.5, 1.0, 3.0])
def test_equal_tuned_and_untuned_give_the_base_back_to_the_last_bit(behaviour):
    rng = np.random.default_rng(0)
    base, small = (rng.normal(size=5000).astype(np.float32) * 8 for _ in range(2))
    out = np.empty_like(base)
    kernels.blend_into((base, small, small), np.array(coefficients(1, behaviour, [1])), out)
    np.testing.assert_array_equal(out, base)


def test_of_equal_logits_the_smallest_id_is_taken():
    row = np.zeros(3000, np.float32)
    row[[7, 1500, 2999]] = 1
    assert kernels.blend_argmax((row,), np.ones(1), 3000) == 7


def test_only_the_shared_part_of_padded_vocabularies_is_read():
    short, long = np.array([1, 2, 3], np.float32), np.array([1, 1, 1, 99], np.float32)
    assert kernels.blend_argmax((short, long), np.ones(2), 3) == 2
    candidates = np.zeros(3, kernels.CANDIDATE)
    kernels.blend_candidates((short, long), np.ones(2), candidates)
    assert candidates["logit"].tolist() == [2, 3, 4]
