"""drawing.py compiled by Numba. A distribution is the ids that are possible, int32, and a probability each, float32.

After top-k these are some dozens of tokens, without truncation all: both must be fast.
"""

from __future__ import annotations

import numba
import numpy as np

from eft_gguf.blend.kernels import BLOCK
from eft_gguf.blend.log_mass import _exp

_LOWEST = np.float32(-87)
"""As in log_mass.py: what is less likely than e^−87 times the likeliest is impossible in float32."""


@numba.njit(cache=True, error_model="numpy")
def softmax_of(candidates, ids, probabilities):  # type: ignore[no-untyped-def]
    """Fill `ids` and `probabilities` from candidates (dtype CANDIDATE), in their order; all 0 if none is possible."""
    n = len(candidates)
    largest = np.float32(-np.inf)
    for i in range(n):
        ids[i] = candidates[i].id
        logit = candidates[i].logit
        probabilities[i] = logit
        largest = logit if logit > largest else largest
    if largest == -np.inf:
        probabilities[:n] = 0
        return
    total = np.float64(0)
    for start in range(0, n, BLOCK):
        block = probabilities[start : min(start + BLOCK, n)]
        for i in range(len(block)):
            x = np.float32(block[i] - largest)
            power = _exp(x if x > _LOWEST else _LOWEST)
            block[i] = power if x > _LOWEST else np.float32(0)
        total += _sum(block)
    scale = np.float32(1 / total)
    for i in range(n):
        probabilities[i] *= scale


@numba.njit(cache=True, error_model="numpy")
def likeliest_of(candidates):  # type: ignore[no-untyped-def]
    """The id of the candidate with the largest logit, the first of equal ones."""
    best = 0
    for i in range(1, len(candidates)):
        if candidates[i].logit > candidates[best].logit:
            best = i
    return candidates[best].id


@numba.njit(cache=True, error_model="numpy")
def draw(probabilities, u):  # type: ignore[no-untyped-def]
    """A place by its probability; 0 where all are 0."""
    n = len(probabilities)
    total = np.float64(0)
    for start in range(0, n, BLOCK):
        total += _sum(probabilities[start : min(start + BLOCK, n)])
    wanted, reached, last = u * total, np.float64(0), 0
    for start in range(0, n, BLOCK):
        block = probabilities[start : min(start + BLOCK, n)]
        above = reached + _sum(block)
        # By rounding a block may turn out to hold less than its sum; the next possible token is then as good.
        if above > wanted:
            for i in range(len(block)):
                reached += block[i]
                if block[i] > 0:
                    last = start + i
                    if reached > wanted:
                        return last
        reached = above
    return last


@numba.njit(cache=True, error_model="numpy")
def verify(p_ids, p, q_ids, q, drafted, u_accept, u_draw, dense):  # type: ignore[no-untyped-def]
    """(token, accepted, overlap) as drawing.verify gives them; `p` is overwritten where the draft is refused.

    dense: room for a probability of every token, float32, all 0 before and after.
    """
    for j in range(len(q_ids)):
        dense[q_ids[j]] = q[j]
    overlap, p_drafted, rest = np.float64(0), np.float32(0), np.float64(0)
    for i in range(len(p_ids)):
        in_draft = dense[p_ids[i]]
        overlap += min(p[i], in_draft)
        rest += max(p[i] - in_draft, np.float32(0))
        if p_ids[i] == drafted:
            p_drafted = p[i]
    accepted = u_accept * dense[drafted] < p_drafted
    token = drafted
    if not accepted:
        if rest > 0:
            for i in range(len(p_ids)):
                p[i] = max(p[i] - dense[p_ids[i]], np.float32(0))
        token = p_ids[draw(p, u_draw)]
    for j in range(len(q_ids)):
        dense[q_ids[j]] = 0
    return token, accepted, overlap


# In any order: a sum one by one waits for each addition before the next.
@numba.njit(cache=True, error_model="numpy", fastmath={"reassoc"})
def _sum(values):  # type: ignore[no-untyped-def]
    total = np.float64(0)
    for value in values:
        total += value
    return total
