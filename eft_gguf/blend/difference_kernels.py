"""difference.py compiled by Numba: one pass over the vocabulary each, nothing of its size is written.

All take rows of logits (float32, of one length) and their `log_mass`; what is not finite counts as impossible.
"""

from __future__ import annotations

import numba
import numpy as np

from eft_gguf.blend.difference import LEAST


@numba.njit(cache=True, error_model="numpy")
def differences(left, left_mass, right, right_mass):  # type: ignore[no-untyped-def]
    """(total variation, KL(left ‖ right) in nats)."""
    moved = divergence = 0.0
    for i in range(len(left)):
        lp = left[i] - left_mass if abs(left[i]) < np.inf else -np.inf
        lq = right[i] - right_mass if abs(right[i]) < np.inf else -np.inf
        # True of most tokens, and exp is what takes the time.
        if max(lp, lq) <= LEAST:
            continue
        p = np.exp(lp)
        moved += abs(p - np.exp(lq))
        if lp > LEAST:
            divergence += p * (lp - lq)
    # Rounding must not show as a divergence below its least value.
    return moved / 2, max(divergence, 0.0)


@numba.njit(cache=True, error_model="numpy")
def likeliest(row, ids):  # type: ignore[no-untyped-def]
    """Fill `ids` (int32) with the tokens of largest logit, falling, of equals the smaller id; returns how many."""
    found = 0
    for i in range(len(row)):
        if not abs(row[i]) < np.inf or (found == len(ids) and row[i] <= row[ids[found - 1]]):
            continue
        found = min(found + 1, len(ids))
        j = found - 1
        while j > 0 and row[ids[j - 1]] < row[i]:
            ids[j] = ids[j - 1]
            j -= 1
        ids[j] = i
    return found
