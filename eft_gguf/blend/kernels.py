"""The equation compiled by Numba. tests/blend/test_kernels.py holds each kernel to equation.py.

The kernels read the logits where llama.cpp left them and write nothing of the vocabulary's size but the candidate
array that llama.cpp's samplers work on. They go through the vocabulary in blocks that stay in the first-level
cache, summing in float64 there: with tuned = untuned the blend is then the base's logits again to the last bit of
float32, whatever the dials are.

All take `rows`, a tuple of float32 arrays (the logits of the models that have part in the blend), and `factors`,
their float64 factors, shape (len(rows),). Only the first `n` entries are read, where the vocabularies are padded
to different lengths. Kernels are compiled once per number of models and cached on disk.
"""

from __future__ import annotations

import numba
import numpy as np

from eft_gguf.blend.layout import CANDIDATE, Rows

__all__ = ["BLOCK", "CANDIDATE", "Rows"]

BLOCK = 1024


@numba.njit(cache=True, error_model="numpy")
def _sum_block(rows, factors, start, stop, total):  # type: ignore[no-untyped-def]
    """total[: stop − start] = the blended logits of tokens start to stop; −inf where the sum is not finite."""
    # Slices, not row[start + i]: the compiler then knows the indices and works on several tokens an instruction.
    width = stop - start
    row, factor = rows[0][start:stop], factors[0]
    for i in range(width):
        total[i] = factor * row[i]
    for m in range(1, len(rows)):
        row, factor = rows[m][start:stop], factors[m]
        for i in range(width):
            total[i] += factor * row[i]
    for i in range(width):
        # + 0.0 changes nothing, but makes the compiler choose between two values instead of branching.
        total[i] = total[i] + 0.0 if abs(total[i]) < np.inf else -np.inf


@numba.njit(cache=True, error_model="numpy")
def blend_into(rows, factors, out):  # type: ignore[no-untyped-def]
    """out[i] = the blended logit of token i, as float32."""
    total = np.empty(BLOCK, np.float64)
    for start in range(0, len(out), BLOCK):
        stop = min(start + BLOCK, len(out))
        _sum_block(rows, factors, start, stop, total)
        block = out[start:stop]
        for i in range(len(block)):
            block[i] = total[i]


@numba.njit(cache=True, error_model="numpy")
def blend_candidates(rows, factors, candidates):  # type: ignore[no-untyped-def]
    """Fill `candidates` (dtype CANDIDATE) with every token's id and blended logit, in the order of the ids."""
    total = np.empty(BLOCK, np.float64)
    for start in range(0, len(candidates), BLOCK):
        stop = min(start + BLOCK, len(candidates))
        _sum_block(rows, factors, start, stop, total)
        for i in range(stop - start):
            candidates[start + i].id = start + i
            candidates[start + i].logit = total[i]


@numba.njit(cache=True, error_model="numpy")
def _peak(total, width, folded):  # type: ignore[no-untyped-def]
    """The largest of total[: width], which is of length BLOCK; folded: half as long, to work in."""
    # In halves: the compiler may not reorder a maximum over the whole, but works on several pairs an instruction.
    total[width:] = -np.inf
    half = BLOCK // 2
    for i in range(half):
        folded[i] = total[i] if total[i] > total[half + i] else total[half + i]
    while half > 8:
        half //= 2
        for i in range(half):
            folded[i] = folded[i] if folded[i] > folded[half + i] else folded[half + i]
    return folded[:half].max()


@numba.njit(cache=True, error_model="numpy")
def blend_argmax(rows, factors, n):  # type: ignore[no-untyped-def]
    """The token with the largest blended logit; of equal ones the smallest id, as llama.cpp's greedy sampler."""
    total, folded = np.empty(BLOCK, np.float64), np.empty(BLOCK // 2, np.float64)
    best, best_logit = 0, np.float32(-np.inf)
    for start in range(0, n, BLOCK):
        stop = min(start + BLOCK, n)
        _sum_block(rows, factors, start, stop, total)
        # float32, as the sampler chain would see it: both paths must choose the same token.
        peak = np.float32(_peak(total, stop - start, folded))
        if peak > best_logit:
            best_logit = peak
            for i in range(stop - start):
                if np.float32(total[i]) == peak:
                    best = start + i
                    break
    return best


@numba.njit(cache=True, error_model="numpy")
def blend_top(rows, factors, k, candidates):  # type: ignore[no-untyped-def]
    """Put at least the k largest blended logits into `candidates`, in the order of the ids; returns how many.

    `candidates` has room for all tokens. The k-th largest of the blocks' peaks is no larger than the k-th largest
    logit, so that tokens below it are none of the k, and few others are left for the sampler chain. With fewer than
    k blocks all are. Summing the blocks with such a peak again takes less time than writing all sums to memory.
    """
    n = len(candidates)
    total, folded = np.empty(BLOCK, np.float64), np.empty(BLOCK // 2, np.float64)
    blocks = (n + BLOCK - 1) // BLOCK
    peaks = np.empty(blocks, np.float32)
    for block in range(blocks):
        start = block * BLOCK
        stop = min(start + BLOCK, n)
        _sum_block(rows, factors, start, stop, total)
        peaks[block] = _peak(total, stop - start, folded)
    floor = np.sort(peaks)[blocks - k] if k <= blocks else np.float32(-np.inf)
    count = 0
    for block in range(blocks):
        if peaks[block] >= floor:
            start = block * BLOCK
            stop = min(start + BLOCK, n)
            _sum_block(rows, factors, start, stop, total)
            for i in range(stop - start):
                if np.float32(total[i]) >= floor:
                    candidates[count].id = start + i
                    candidates[count].logit = total[i]
                    count += 1
    return count


@numba.njit(cache=True, error_model="numpy")
def blend_log_probability(rows, factors, n, token):  # type: ignore[no-untyped-def]
    """The natural log-probability of `token` under the blend, by a running log-sum-exp over the blocks."""
    total = np.empty(BLOCK, np.float64)
    peak, mass, chosen = -np.inf, 0.0, -np.inf
    for start in range(0, n, BLOCK):
        stop = min(start + BLOCK, n)
        _sum_block(rows, factors, start, stop, total)
        high = -np.inf
        for i in range(stop - start):
            high = max(high, total[i])
        if start <= token < stop:
            chosen = total[token - start]
        if high == -np.inf:
            continue
        if high > peak:
            mass *= np.exp(peak - high)
            peak = high
        for i in range(stop - start):
            mass += np.exp(total[i] - peak)
    return chosen - peak - np.log(mass)
