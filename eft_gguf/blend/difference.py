"""How far apart two distributions over the vocabulary are, and what is likeliest in one: plain NumPy.

difference_kernels.py holds the same compiled; tests/blend/test_difference.py holds both together.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from eft_gguf.blend.filter import log_probabilities

LEAST = -40.0
"""Log-probabilities below it count as none: what float32 logits say of them is rounding."""


def total_variation(left: NDArray[np.float32], right: NDArray[np.float32]) -> float:
    """½ Σ |p − q| of two rows of logits, 0 to 1: the share of probability that would have to be moved."""
    p, q = (np.exp(log_probabilities(row)) for row in (left, right))
    return float(np.abs(p - q).sum() / 2)


def kl_divergence(left: NDArray[np.float32], right: NDArray[np.float32]) -> float:
    """KL(p ‖ q) = Σ p · log(p / q) of two rows of logits, in nats; infinite where q rules out what p does not."""
    lp, lq = (log_probabilities(row) for row in (left, right))
    possible = lp > LEAST
    return float((np.exp(lp[possible]) * (lp[possible] - lq[possible])).sum())


def likeliest(row: NDArray[np.float32], count: int) -> list[int]:
    """The `count` tokens of largest logit, falling; of equals the smaller id first. Less where fewer are possible."""
    order = np.argsort(-np.where(np.isfinite(row), row, -np.inf), kind="stable")
    return [int(token) for token in order[:count] if np.isfinite(row[token])]
