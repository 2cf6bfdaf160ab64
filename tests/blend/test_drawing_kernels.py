import numpy as np
import pytest

from eft_gguf.blend import drawing, drawing_kernels
from eft_gguf.blend.kernels import CANDIDATE


def candidates_of(logits, ids):
    candidates = np.zeros(len(ids), CANDIDATE)
    candidates["id"], candidates["logit"] = ids, logits
    return candidates


def distribution(candidates):
    ids, probabilities = np.empty(len(candidates), np.int32), np.empty(len(candidates), np.float32)
    drawing_kernels.softmax_of(candidates, ids, probabilities)
    return ids, probabilities


@pytest.mark.parametrize("n", [1, 5, 40, 1024, 1025, 30_000])
def test_softmax_is_the_reference(n):
    rng = np.random.default_rng(n)
    logits = (rng.normal(size=n) * 8).astype(np.float32)
    logits[rng.random(n) < 0.2] = -np.inf
    logits[rng.integers(n)] = 3
    ids, probabilities = distribution(candidates_of(logits, rng.permutation(n)))
    # The distance from the largest logit is rounded to float32, which at 40 nats is some 2e-6.
    np.testing.assert_allclose(probabilities, drawing.softmax(logits), rtol=1e-5, atol=1e-30)
    assert (probabilities[np.isneginf(logits)] == 0).all()
    assert sorted(ids) == list(range(n))


def test_softmax_of_impossible_tokens_is_zero():
    _, probabilities = distribution(candidates_of(np.full(7, -np.inf, np.float32), range(7)))
    assert (probabilities == 0).all()
    assert drawing_kernels.draw(probabilities, 0.7) == 0


@pytest.mark.parametrize("n", [1, 3, 1024, 5000])
def test_draws_are_those_of_the_reference(n):
    rng = np.random.default_rng(n)
    p = (rng.random(n) * (rng.random(n) < 0.5)).astype(np.float32)
    p[-1] = 0.5
    numbers = [0.0, *rng.random(500), 1 - 2**-53]
    drawn = [drawing_kernels.draw(p, u) for u in numbers]
    # At the very end of the sum rounding may tell, and there a token of probability above 0 must be drawn all the same.
    assert drawn[:-1] == [drawing.draw(p.astype(np.float64), u) for u in numbers[:-1]]
    assert p[drawn[-1]] > 0


@pytest.mark.parametrize("n", [3, 60, 3000])
def test_verification_is_that_of_the_reference(n):
    rng = np.random.default_rng(n)
    dense = np.zeros(n, np.float32)
    outcomes = set()
    for _ in range(300):
        kept_p, kept_q = (rng.choice(n, rng.integers(1, n + 1), replace=False).astype(np.int32) for _ in range(2))
        p, q = (rng.dirichlet(np.full(len(kept), 0.3)).astype(np.float32) for kept in (kept_p, kept_q))
        whole_p, whole_q = np.zeros(n), np.zeros(n)
        whole_p[kept_p], whole_q[kept_q] = p, q
        drafted = int(rng.choice(kept_q, p=q / q.sum(dtype=np.float64)))
        u_accept, u_draw = rng.random(2)
        token, accepted, overlap = drawing_kernels.verify(kept_p, p.copy(), kept_q, q, drafted, u_accept, u_draw, dense)
        expected = drawing.verify(whole_p, whole_q, drafted, u_accept, 0.0)
        assert (accepted, overlap) == (expected[1], pytest.approx(expected[2], abs=1e-6))
        assert not dense.any()
        outcomes.add(accepted)
        if accepted:
            assert token == drafted
        else:
            rest = np.maximum(whole_p - whole_q, 0)[kept_p]
            assert token == kept_p[drawing.draw(rest if rest.sum() > 0 else whole_p[kept_p], u_draw)]
    assert outcomes == {True, False}


def test_the_first_of_equally_likely_candidates_is_the_likeliest():
    assert drawing_kernels.likeliest_of(candidates_of([1, 3, 3, -np.inf], [4, 9, 2, 7])) == 9
