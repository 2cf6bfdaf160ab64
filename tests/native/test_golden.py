"""The same vectors through equation.py and filter.py (float64), the Numba kernels, and native/eft.h.

Logits lie at most 1e-5 apart, the filters keep the same tokens, and a random number draws the same token from all.
"""

import numpy as np
import pytest

from eft_gguf import Filter
from eft_gguf.blend import drawing, drawing_kernels, kernels, log_mass
from eft_gguf.blend.equation import blend_logits, coefficients, log_softmax, members_needed
from eft_gguf.blend.filter import filtered_logits
from eft_gguf.blend.filter_kernels import FilteredBlend

CASES = 1000
SIZES = [1, 2, 3, 65, 1000, 1023, 1024, 1025, 3000]
LARGE = {100: 49_152, 200: 151_936, 300: 262_144, 400: 262_144}
"""Sizes of vocabularies by number of the case."""
TOLERANCE = 1e-5


def case(number):
    """Rows of base, untuned, tuned and perhaps an own untuned; factors; a filter; the untuned; a random number."""
    rng = np.random.default_rng(number)
    size = LARGE.get(number) or int(rng.choice(SIZES))
    traits = int(rng.integers(1, 4))
    shared = rng.normal(size=size) * rng.choice([0.1, 2, 4])
    own = bool(rng.random() < 0.2)  # the first trait was tuned from another model
    rows = [shared + rng.normal(size=size) * rng.choice([0.0, 0.1, 2]) for _ in range(2 + traits + own)]
    rows = [row.astype(np.float32) for row in rows]
    if rng.random() < 0.3:
        # Ties: tokens that no model tells apart.
        twins = rng.integers(0, size, size)
        rows = [row[np.minimum(twins, np.arange(size))] for row in rows]
    for row in rows:
        row[rng.random(size) < rng.choice([0.0, 0.05, 0.9], p=[0.6, 0.3, 0.1])] = -np.inf
    factors = coefficients(
        float(rng.choice([0, 0.5, 1, 1.3])),
        float(rng.choice([0, 0.7, 1, 2])),
        rng.choice([0, 0.3, 0.5, 1], traits),
        [int(own)] + [0] * (traits - 1),
    )
    tuned, base = (rng.choice([1, 0.05, 0.5, 0.9, 0.95, 0.9999]) if rng.random() < 0.5 else None for _ in range(2))
    filter = Filter(
        None if tuned is None else float(tuned),
        None if base is None else float(base),
        float(rng.choice([0.01, 0.1, 0.5, 1])) if rng.random() < 0.4 else None,
        float(rng.choice([-1, -7, -20])) if rng.random() < 0.4 else None,
    )
    return tuple(rows), factors, filter, (1, 2 + traits) if own else (1,), float(rng.random())


def assert_close(ours, expected):
    """Up to a constant, which softmax removes; the same tokens possible."""
    np.testing.assert_array_equal(np.isfinite(ours), np.isfinite(expected))
    kept = np.isfinite(expected)
    if kept.any():
        ours, expected = ours[kept].astype(np.float64), expected[kept].astype(np.float64)
        top = int(np.argmax(expected))
        np.testing.assert_allclose(ours - ours[top], expected - expected[top], rtol=0, atol=TOLERANCE)


def assert_agree(rows, factors, filter, untuned, u, library):
    """A blend, the same under the filter, and a draw from each, three ways."""
    from eft_gguf.blend import native

    n = len(rows[0])
    weights = np.array(factors)
    plain, numba = np.empty(n, np.float32), np.empty(n, np.float32)
    expected = blend_logits(rows, factors)
    native.blend_into(rows, weights, plain)
    np.testing.assert_array_equal(plain, expected.astype(np.float32))
    part = tuple(row for row, factor in zip(rows, factors, strict=True) if factor != 0)
    if part:
        kernels.blend_into(part, weights[weights != 0], numba)
        np.testing.assert_allclose(plain, numba, rtol=1e-6, atol=TOLERANCE)
        assert native.blend_argmax(rows, weights, n) == kernels.blend_argmax(part, weights[weights != 0], n)

    reference = filtered_logits(rows, factors, filter, untuned)
    members = members_needed(factors, filter) or [1]
    used = tuple(rows[member] for member in members)
    ours = native.FilteredBlend(n, untuned)(used, members, factors, filter).copy()
    assert_close(ours, reference)
    assert_close(FilteredBlend(n, untuned)(used, members, factors, filter), reference)

    for logits, exact in ((plain, expected), (ours, reference)):
        possible = np.isfinite(exact).any()
        token = library.eft_sample(logits.ctypes.data, n, u)
        if not possible:
            assert token == -1
            continue
        assert token == drawing.draw(drawing.softmax(exact), u)
        candidates = np.zeros(n, kernels.CANDIDATE)
        candidates["id"], candidates["logit"] = np.arange(n), logits
        ids, probabilities = np.empty(n, np.int32), np.empty(n, np.float32)
        drawing_kernels.softmax_of(candidates, ids, probabilities)
        assert token == drawing_kernels.draw(probabilities, u)
        assert native.log_mass(logits) == pytest.approx(log_mass.log_mass(logits), abs=TOLERANCE)
        np.testing.assert_allclose(
            native.blend_log_probability((logits,), np.ones(1), n, token),
            log_softmax(logits.astype(np.float64))[token],
            rtol=0,
            atol=1e-9,
        )


@pytest.mark.parametrize("hundred", range(CASES // 100))
def test_random_vectors(hundred, library):
    for number in range(100 * hundred, 100 * hundred + 100):
        rows, factors, filter, untuned, u = case(number)
        try:
            assert_agree(rows, factors, filter, untuned, u, library)
        except AssertionError as error:
            raise AssertionError(f"case {number}: n {len(rows[0])}, factors {factors}, {filter}, u {u}") from error


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("p", [0.95, 0.9999, 0.99999])
def test_large_sets_end_at_the_same_token(p, seed, library):
    """Near 1 a set has nearly all of 262,144 tokens, its last ones of a probability of 1e-10."""
    rng = np.random.default_rng([seed, int(p * 1e5)])
    shared = rng.normal(size=262_144) * 3
    rows = tuple((shared + rng.normal(size=len(shared))).astype(np.float32) for _ in range(3))
    for factors, filter in (
        (coefficients(1, 1, [1]), Filter(base_top_p=p)),
        (coefficients(1, 1, [1]), Filter(tuned_top_p=p)),
        (coefficients(1.3, 0.7, [1]), Filter(tuned_top_p=p, untuned_floor=-12)),
    ):
        reference = filtered_logits(rows, factors, filter)
        assert_close(FilteredBlend(len(shared))(rows, [0, 1, 2], factors, filter), reference)
        from eft_gguf.blend import native

        assert_close(native.FilteredBlend(len(shared))(rows, [0, 1, 2], factors, filter), reference)
