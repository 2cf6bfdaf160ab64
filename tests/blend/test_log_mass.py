import numpy as np
import pytest

from eft_gguf.blend.kernels import BLOCK
from eft_gguf.blend.log_mass import _exp, log_mass, peak

INF = np.inf


def test_the_polynomial_is_exp():
    x = np.linspace(-87, 0, 100_001, dtype=np.float32)
    result = np.array([_exp(value) for value in x], np.float64)
    np.testing.assert_allclose(result, np.exp(x.astype(np.float64)), rtol=2e-7)


@pytest.mark.parametrize("kind", [np.float32, np.float64])
@pytest.mark.parametrize("size", [1, 2, BLOCK - 1, BLOCK, BLOCK + 1, 5 * BLOCK + 3])
@pytest.mark.parametrize("scale", [0, 1, 20])
def test_log_mass_is_the_logarithm_of_the_sum_of_exponentials(kind, size, scale):
    logits = (np.random.default_rng(size).normal(size=size) * scale + 7).astype(kind)
    logits[::7] = -INF if size > 1 else 7
    assert log_mass(logits) == pytest.approx(np.logaddexp.reduce(logits.astype(np.float64)), abs=3e-7)
    assert peak(logits) == logits.max()


@pytest.mark.parametrize("kind", [np.float32, np.float64])
@pytest.mark.parametrize(
    ("logits", "largest", "mass"),
    [
        ([-INF, -INF], -INF, 0),
        ([np.nan, -INF], -INF, 0),
        ([INF, 2, -INF, np.nan, 1], 2, np.logaddexp(2, 1)),
        ([-3e38, 3e38], np.float32(3e38), np.float32(3e38)),
    ],
)
def test_what_is_not_finite_does_not_count(kind, logits, largest, mass):
    row = np.array(logits, np.float32).astype(kind)
    assert peak(row) == largest
    assert log_mass(row) == pytest.approx(mass)
