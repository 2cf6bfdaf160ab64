"""The filters of `Blend.filter` in plain NumPy: the reference for filter_kernels.py. `Filter` says what each is for.

They work on log-probabilities lp, for which a model's constant matters: with u = lp_untuned, raised to the floor
(and u_i likewise, where trait i has an untuned model of its own),

    small = u + behaviour · Σ_i weight_i · (lp_tuned_i − u_i), normalised to log-probabilities: the tuned side
    z = small + knowledge · (lp_base − u)     inside the top-p set of `small`, or everywhere without tuned_top_p
    z = small                                 outside it
    z = −inf                                  where the base finds a token implausible
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eft_gguf.blend.equation import Filter, blend_logits, log_softmax, tuned_side

ROUNDING = 1e-6
"""What a set's probability may lack of p, and a token's log-probability of its bound: float32 logits hold no more."""


def filtered_logits(
    rows: Sequence[NDArray[np.float32]], factors: Sequence[float], filter: Filter, untuned: Sequence[int] = (1,)
) -> NDArray[np.float64]:
    """The blended logits under `filter`, float64, shape (n,), up to a constant; −inf for tokens that are ruled out.

    rows: logits of the models, each of shape (n,), in the order of `coefficients`, which gives their factors.
    untuned: the places of the untuned models.
    If the filter would rule out every token, the most likely one of the blend is kept.
    """
    filter = filter.in_force(factors, untuned)
    logs = [log_probabilities(row) for row in rows]
    if filter.untuned_floor is not None:
        for place in untuned:
            logs[place] = np.maximum(logs[place], filter.untuned_floor)
    base = logs[0]
    blended = blend_logits(logs, factors)
    if filter.tuned_top_p is not None:
        small = log_probabilities(blend_logits(logs, tuned_side(factors)))
        with np.errstate(invalid="ignore"):
            up_scaled = small + factors[0] * (base - logs[1])
        blended = np.where(top_p_set(small, filter.tuned_top_p), up_scaled, small)
        blended[~np.isfinite(blended)] = -np.inf
    kept = blended.copy()
    if filter.base_top_p is not None:
        kept[~top_p_set(base, filter.base_top_p)] = -np.inf
    if filter.base_min_p is not None:
        kept[~min_p_set(base, filter.base_min_p)] = -np.inf
    if not np.isfinite(kept).any():
        likeliest = np.argmax(blended)
        kept[likeliest] = blended[likeliest]
    return kept


def top_p_set(log_probabilities: NDArray[np.float64], p: float) -> NDArray[np.bool_]:
    """A mask of the smallest set of most likely tokens whose probability reaches p; of equals the smaller ids."""
    order = np.argsort(-log_probabilities, kind="stable")
    reached = np.cumsum(np.exp(log_probabilities[order]))
    inside = np.zeros(len(log_probabilities), dtype=np.bool_)
    inside[order[: np.searchsorted(reached, p - ROUNDING) + 1]] = True
    return inside & (log_probabilities > -np.inf)


def min_p_set(log_probabilities: NDArray[np.float64], p: float) -> NDArray[np.bool_]:
    """A mask of the tokens at least p times as likely as the likeliest."""
    return np.asarray(log_probabilities >= log_probabilities.max() + np.log(p) - ROUNDING)


def log_probabilities(logits: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """`log_softmax` for logits of every kind: what is not finite is impossible, and all may be."""
    cleaned = np.where(np.isfinite(logits), logits, -np.inf).astype(np.float64)
    return log_softmax(cleaned) if np.isfinite(cleaned).any() else cleaned
