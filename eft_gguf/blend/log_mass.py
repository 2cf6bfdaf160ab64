"""log Σ exp(logit) over a whole vocabulary, fast: what lies between logits and log-probabilities.

A call of exp for each token would take as long as all else of a step's blending together. The polynomial here, and one
sum for each place in a block instead of one over all, is what the compiler turns into vector instructions.
"""

from __future__ import annotations

import numba
import numpy as np

from eft_gguf.blend.kernels import BLOCK

_LOWEST, _ZERO = np.float32(-87), np.float32(0)
"""exp of less than −87 is no normal float32; a whole vocabulary of it adds nothing to a sum of 1."""

_LOG2_E, _ROUNDER = np.float32(1.44269504), np.float32(1.5 * 2**23)
_LN_2_HIGH, _LN_2_LOW = np.float32(0.693359375), np.float32(-2.12194440e-4)
_C5, _C4, _C3, _C2, _C1, _C0 = (
    np.float32(c)
    for c in (1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1)
)


@numba.njit(cache=True, error_model="numpy")
def _exp(x):  # type: ignore[no-untyped-def]
    """exp of a float32 from −87 to 0, to some 1e-7 of its value: 2^k · exp(r), the polynomial for r from Cephes' expf.

    Adding 1.5 · 2^23 rounds to a whole number, which then stands in the lowest bits; shifted into the exponent's place
    it multiplies by 2^k.
    """
    rounded = np.float32(x * _LOG2_E + _ROUNDER)
    k = rounded - _ROUNDER
    r = x - k * _LN_2_HIGH - k * _LN_2_LOW
    polynomial = ((((_C5 * r + _C4) * r + _C3) * r + _C2) * r + _C1) * r + _C0
    fraction = np.float32(polynomial * r * r + r + np.float32(1))
    return np.int32((rounded.view(np.int32) << np.int32(23)) + fraction.view(np.int32)).view(np.float32)


@numba.njit(cache=True, error_model="numpy")
def peak(logits):  # type: ignore[no-untyped-def]
    """The largest finite logit; −inf if there is none."""
    # A maximum for each place in a block: the compiler may not reorder one over the whole row.
    highest, zero = np.full(BLOCK, -np.inf, logits.dtype), logits.dtype.type(0)
    for start in range(0, len(logits), BLOCK):
        block = logits[start : start + BLOCK]
        for i in range(len(block)):
            # + 0: see kernels._sum_block.
            so_far = highest[i] + zero
            highest[i] = block[i] if block[i] > so_far else so_far
    if highest.max() == np.inf:
        highest[:] = -np.inf
        for logit in logits:
            if highest[0] < logit < np.inf:
                highest[0] = logit
    return highest.max()


@numba.njit(cache=True, error_model="numpy")
def log_mass(logits):  # type: ignore[no-untyped-def]
    """log Σ exp(logit) over the finite logits, float64; 0 if there is none."""
    largest = peak(logits)
    if largest == -np.inf:
        return 0.0
    below = np.empty(BLOCK, np.float32)
    sums = np.zeros(BLOCK, np.float32)
    for start in range(0, len(logits), BLOCK):
        block = logits[start : start + BLOCK]
        for i in range(len(block)):
            x = np.float32(block[i] - largest)
            below[i] = x if x <= _ZERO else _LOWEST
        for i in range(len(block)):
            sums[i] += _exp(max(below[i], _LOWEST))
    total = np.float64(0)
    for sum_of_place in sums:
        total += sum_of_place
    return largest + np.log(total)
