"""What drawing_kernels.py and difference_kernels.py do, by their plain references: needs neither Numba nor a compiler.

Beside the blend these are small: after top-k there are some dozens of tokens to draw from.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from eft_gguf.blend import difference, drawing


def softmax_of(candidates: NDArray[np.void], ids: NDArray[np.int32], probabilities: NDArray[np.float32]) -> None:
    """Fill `ids` and `probabilities` from candidates (dtype CANDIDATE), in their order; all 0 if none is possible."""
    n = len(candidates)
    ids[:n] = candidates["id"]
    probabilities[:n] = drawing.softmax(candidates["logit"])


def likeliest_of(candidates: NDArray[np.void]) -> int:
    """The id of the candidate with the largest logit, the first of equal ones."""
    return int(candidates[candidates["logit"].argmax()]["id"])


def draw(probabilities: NDArray[np.float32], u: float) -> int:
    """A place by its probability; 0 where all are 0."""
    exact = probabilities.astype(np.float64)
    return drawing.draw(exact, u) if exact.any() else 0


def verify(
    p_ids: NDArray[np.int32],
    p: NDArray[np.float32],
    q_ids: NDArray[np.int32],
    q: NDArray[np.float32],
    drafted: int,
    u_accept: float,
    u_draw: float,
    dense: NDArray[np.float32],
) -> tuple[int, bool, float]:
    """(token, accepted, overlap) as drawing.verify gives them. dense: room for every token's probability."""
    dense[q_ids] = q
    draft, taken = dense[p_ids].astype(np.float64), float(dense[drafted])
    dense[q_ids] = 0
    exact = p.astype(np.float64)
    overlap = float(np.minimum(exact, draft).sum())
    if u_accept * taken < float(exact[p_ids == drafted].sum()):
        return drafted, True, overlap
    rest = np.maximum(exact - draft, 0)
    return int(p_ids[drawing.draw(rest if rest.any() else exact, u_draw)]), False, overlap


def differences(
    left: NDArray[np.float32], left_mass: float, right: NDArray[np.float32], right_mass: float
) -> tuple[float, float]:
    """(total variation, KL(left ‖ right) in nats)."""
    return difference.total_variation(left, right), max(0.0, difference.kl_divergence(left, right))


def likeliest(row: NDArray[np.float32], ids: NDArray[np.int32]) -> int:
    """Fill `ids` with the tokens of largest logit, falling, of equals the smaller id; returns how many."""
    best = difference.likeliest(row, len(ids))
    ids[: len(best)] = best
    return len(best)
