"""Drawing a token, and accepting a drafted one, in plain NumPy: the reference for drawing_kernels.py.

Speculative sampling: Leviathan et al., arXiv 2211.17192, and Chen et al., arXiv 2302.01318. A token x was drawn from a
cheap distribution q, and one from p is wanted. It is x with probability min(1, p(x) / q(x)), and else one drawn from
the positive part of p − q, normalised. This is a draw from p, whatever q is: token y comes out as an accepted draft
with probability q(y) · min(1, p(y) / q(y)) = min(p(y), q(y)). In all, drafts are refused with probability
Σ (q − min(p, q)) = Σ max(0, p − q), which is what normalising divides by, so that y is resampled with probability
max(0, p(y) − q(y)). The sum is p(y).

Random numbers are uniform in [0, 1). Probabilities are of shape (n,), and need not be normalised to the last digit.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """Probabilities of logits; where not a single one is finite, all are 0."""
    if not np.isfinite(logits).any():
        return np.zeros(len(logits))
    powers = np.exp(logits.astype(np.float64) - logits.max())
    return np.asarray(powers / powers.sum())


def draw(probabilities: NDArray[np.float64], u: float) -> int:
    """The place at which the sum of probabilities from the first on exceeds u times the sum of all."""
    sums = np.cumsum(probabilities)
    return int(np.searchsorted(sums, u * sums[-1], side="right"))


def verify(
    p: NDArray[np.float64], q: NDArray[np.float64], drafted: int, u_accept: float, u_draw: float
) -> tuple[int, bool, float]:
    """(token, accepted, overlap) for a token `drafted` from q; overlap = Σ min(p, q), how likely it was accepted."""
    overlap = float(np.minimum(p, q).sum())
    if u_accept * q[drafted] < p[drafted]:
        return drafted, True, overlap
    rest = np.maximum(p - q, 0)
    # Rounding may refuse a draft where p = q.
    return draw(rest if rest.sum() > 0 else p, u_draw), False, overlap
