import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eft_gguf.blend import difference, difference_kernels
from eft_gguf.blend.log_mass import log_mass


def logits(*probabilities):
    with np.errstate(divide="ignore"):
        # The constant must not matter.
        return np.log(np.array(probabilities)).astype(np.float32) + np.float32(3)


def compiled(left, right):
    return difference_kernels.differences(left, log_mass(left), right, log_mass(right))


def compiled_likeliest(row, count):
    ids = np.zeros(count, np.int32)
    return ids[: difference_kernels.likeliest(row, ids)].tolist()


@pytest.mark.parametrize(
    ("left", "right", "variation", "divergence"),
    [
        ((0.5, 0.25, 0.25), (0.5, 0.25, 0.25), 0, 0),
        ((0.5, 0.5), (0.25, 0.75), 0.25, 0.5 * math.log(2) + 0.5 * math.log(2 / 3)),
        ((0.25, 0.75), (0.5, 0.5), 0.25, 0.25 * math.log(1 / 2) + 0.75 * math.log(3 / 2)),
        ((1, 0), (0.5, 0.5), 0.5, math.log(2)),
        ((0.5, 0.5), (1, 0), 0.5, math.inf),
        ((1, 0), (0, 1), 1, math.inf),
    ],
)
def test_worked_by_hand(left, right, variation, divergence):
    left, right = logits(*left), logits(*right)
    assert difference.total_variation(left, right) == pytest.approx(variation, abs=1e-6)
    assert difference.kl_divergence(left, right) == pytest.approx(divergence, abs=1e-6)
    assert compiled(left, right) == pytest.approx((variation, divergence), abs=1e-6)


def test_likeliest_by_hand():
    row = logits(0.1, 0.3, 0.3, 0, 0.25, 0.05)
    for find in (difference.likeliest, compiled_likeliest):
        assert find(row, 4) == [1, 2, 4, 0]
        assert find(row, 9) == [1, 2, 4, 0, 5]
        assert find(np.full(3, -np.inf, np.float32), 2) == []


@st.composite
def pairs(draw):
    size = draw(st.sampled_from([1, 2, 7, 300, 3000]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    rows = [(rng.normal(size=size) * draw(st.sampled_from([0.1, 3, 30]))).astype(np.float32) for _ in range(2)]
    for row in rows:
        # Whole numbers make equals; token 0 stays possible.
        row[:] = draw(st.sampled_from([row, np.round(row)]))
        row[1:][rng.random(size - 1) < draw(st.sampled_from([0.0, 0.1]))] = -np.inf
    return rows


@settings(deadline=None, max_examples=100)
@given(pairs(), st.integers(1, 6))
def test_kernels_agree_with_the_reference(pair, count):
    left, right = pair
    variation, divergence = compiled(left, right)
    assert variation == pytest.approx(difference.total_variation(left, right), abs=1e-5)
    assert divergence == pytest.approx(difference.kl_divergence(left, right), rel=1e-5, abs=1e-5)
    assert compiled_likeliest(left, count) == difference.likeliest(left, count)
    assert compiled(left, left) == (0, 0)
