import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eft_gguf.blend.drawing import draw, softmax, verify

P = np.array([0.5, 0.3, 0.2, 0.0])
Q = np.array([0.2, 0.3, 0.4, 0.1])


def test_softmax_by_hand():
    np.testing.assert_allclose(softmax(np.log(np.array([1, 2, 5], np.float32))), [0.125, 0.25, 0.625], atol=1e-7)
    assert softmax(np.array([-np.inf, 0.0, -np.inf], np.float32)).tolist() == [0, 1, 0]
    assert softmax(np.full(3, -np.inf, np.float32)).tolist() == [0, 0, 0]


@pytest.mark.parametrize(("u", "place"), [(0, 0), (0.499, 0), (0.501, 1), (0.799, 1), (0.801, 2), (0.9999, 2)])
def test_a_number_draws_the_place_whose_share_of_the_probability_it_falls_into(u, place):
    assert draw(P, u) == place


def test_a_drafted_token_is_taken_with_p_over_q_and_else_one_of_the_positive_part():
    # Token 2: 0.2 / 0.4. The positive part of P − Q is all on token 0. Overlap: 0.2 + 0.3 + 0.2.
    assert verify(P, Q, 2, 0.49, 0.5) == (2, True, pytest.approx(0.7))
    assert verify(P, Q, 2, 0.51, 0.99) == (0, False, pytest.approx(0.7))
    assert verify(P, Q, 3, 0.0, 0.5)[:2] == (0, False)
    assert verify(P, Q, 0, 0.9999, 0.5)[:2] == (0, True)


def test_equal_distributions_accept_every_draft():
    assert all(verify(P, P, x, 0.999999, 0.5)[:2] == (x, True) for x in range(3))


@given(st.integers(2, 9), st.integers(0, 2**32 - 1))
@settings(max_examples=200, deadline=None)
def test_the_outcome_has_the_distribution_p_whatever_q_is(n, seed):
    rng = np.random.default_rng(seed)
    p, q = rng.random(n) * (rng.random(n) < 0.7), rng.random(n) * (rng.random(n) < 0.7)
    p[rng.integers(n)] += 0.1
    q[rng.integers(n)] += 0.1
    p, q = p / p.sum(), q / q.sum()
    outcome = np.zeros(n)
    for x in np.flatnonzero(q):
        taken = min(1, p[x] / q[x])
        outcome[x] += q[x] * taken
        if taken < 1:
            rest = np.maximum(p - q, 0)
            outcome += q[x] * (1 - taken) * rest / rest.sum()
            # The rule in `verify` is the one of this sum.
            assert verify(p, q, x, min(taken + 1e-9, 1), 0.5)[:2] == (draw(rest, 0.5), False)
        if taken > 0:
            assert verify(p, q, x, taken - 1e-9, 0.5)[:2] == (x, True)
    np.testing.assert_allclose(outcome, p, atol=1e-12)
