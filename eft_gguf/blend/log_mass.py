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

_EXACT_LN_2 = (6.93145751953125e-1, 1.42860682030941723212e-6)


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


@numba.njit(cache=True, error_model="numpy")
def _exact_exp(x):  # type: ignore[no-untyped-def]
    """exp of a float64 from −700 to 0, to its last digits: as `_exp`, with exp(r) as its series up to r^12."""
    rounded = np.float64(x * 1.4426950408889634 + 1.5 * 2**52)
    k = rounded - 1.5 * 2**52
    r = x - k * _EXACT_LN_2[0] - k * _EXACT_LN_2[1]
    r2 = r * r
    r4 = r2 * r2
    # In groups that do not wait for each other, and without divisions, which take ten times as long.
    low = 1 + r + r2 * (1 / 2 + r * (1 / 6))
    middle = 1 / 24 + r * (1 / 120) + r2 * (1 / 720 + r * (1 / 5040))
    high = 1 / 40320 + r * (1 / 362880) + r2 * (1 / 3628800 + r * (1 / 39916800)) + r4 * (1 / 479001600)
    fraction = np.float64(low + r4 * (middle + r4 * high))
    return np.int64((rounded.view(np.int64) << np.int64(52)) + fraction.view(np.int64)).view(np.float64)


@numba.njit(cache=True, error_model="numpy")
def exact_log_mass(logits):  # type: ignore[no-untyped-def]
    """`log_mass` in float64 throughout, in twice the time: to some 1e-13 of the sum."""
    largest = np.float64(peak(logits))
    if largest == -np.inf:
        return 0.0
    below, sums = np.empty(BLOCK, np.float64), np.zeros(BLOCK, np.float64)
    for start in range(0, len(logits), BLOCK):
        block = logits[start : start + BLOCK]
        for i in range(len(block)):
            x = block[i] - largest
            below[i] = x if x <= 0 else -700.0
        for i in range(len(block)):
            sums[i] += _exact_exp(max(below[i], -700.0))
    return largest + np.log(sums.sum())
