"""The filters compiled by Numba. tests/blend/test_filter_kernels.py holds them to filter.py, whose words they use.

They work on logits where the reference has log-probabilities: a model's `log_mass` is all that lies between. The time
goes into passes over whole vocabularies, so there are few, and a top-p set is sought among the tokens that can belong
to it only.

A set is exactly the reference's, because each border comes with a bound of what rounding may do to it. It is sought by
a quick sum of all probabilities, where that leaves a doubt by an exact one, and where even the last digits of float64
decide, the reference itself is asked.
"""

from __future__ import annotations

from collections.abc import Sequence

import numba
import numpy as np
from numpy.typing import NDArray

from eft_gguf.blend.equation import Filter, tuned_side
from eft_gguf.blend.filter import ROUNDING, filtered_logits
from eft_gguf.blend.kernels import BLOCK, Rows
from eft_gguf.blend.log_mass import exact_log_mass, log_mass, peak

BINS, FEW, CHUNK = 256, 64, 64
NEAR = 1e-9
"""Two sums of logits may stand in another order than in the reference if this is all that they differ by."""


class FilteredBlend:
    """Blends rows of `n` logits under a filter, into an array that it owns: a view until the next call.

    untuned: which members are untuned models.
    """

    def __init__(self, n: int, untuned: Sequence[int] = (1,)) -> None:
        self._untuned = tuple(untuned)
        self._blended = np.empty(n, np.float32)
        self._small = np.empty(n, np.float64)
        self._ids = np.empty(n, np.int32)
        self._masses = np.empty(n, np.float64)

    def __call__(
        self, rows: Rows, members: Sequence[int], factors: Sequence[float], filter: Filter
    ) -> NDArray[np.float32]:
        """The blended logits, shape (n,), up to a constant; −inf for tokens that are ruled out.

        rows: logits of the `members_needed`, each of shape (n,) or longer.  members: which these are.
        factors: of all members, as `coefficients` gives them.
        """
        filter = filter.in_force(factors, self._untuned)
        small = tuned_side(factors)
        parts = [place for place, member in enumerate(members) if small[member] != 0]
        # One trait of weight 1 at behaviour 1, the usual case: its row is the tuned side, and needs no sum.
        is_row = len(parts) == 1 and small[members[parts[0]]] == 1 and members[parts[0]] not in self._untuned
        sure = filter_into(
            rows,
            np.array([factors[member] for member in members], np.float64),
            np.array([small[member] for member in members], np.float64),
            members.index(0) if 0 in members else -1,
            members.index(1) if 1 in members else -1,
            np.array([member in self._untuned for member in members]),
            parts[0] if is_row else -1,
            1.0 if filter.tuned_top_p is None else float(filter.tuned_top_p),
            1.0 if filter.base_top_p is None else float(filter.base_top_p),
            0.0 if filter.base_min_p is None else float(filter.base_min_p),
            -np.inf if filter.untuned_floor is None else float(filter.untuned_floor),
            self._blended,
            self._small,
            self._ids,
            self._masses,
        )
        if not sure:
            self._take_reference(rows, members, factors, filter)
        return self._blended

    def _take_reference(self, rows: Rows, members: Sequence[int], factors: Sequence[float], filter: Filter) -> None:
        shared = [row[: len(self._blended)] for row in rows]
        # A member that is not needed has no part, so that any row can stand in for it.
        every = [shared[members.index(member)] if member in members else shared[0] for member in range(len(factors))]
        blended = filtered_logits(every, factors, filter, self._untuned)
        held = np.abs(blended) <= np.finfo(np.float32).max
        self._blended[:] = np.where(held, blended, -np.inf)


@numba.njit(cache=True, error_model="numpy")
def filter_into(  # type: ignore[no-untyped-def]
    rows,
    factors,
    small_factors,
    base,
    untuned,
    floored,
    tuned,
    tuned_top_p,
    base_top_p,
    base_min_p,
    floor,
    out,
    small,
    ids,
    masses,
):
    """out[i] = the blended logit of token i under the filters, of which 1, 1, 0 and −inf are off.

    Returns whether the top-p sets are the reference's for sure; if not, `out` is to be thrown away.
    base, untuned: their places in `rows`, −1 where they are not needed.  floored: by row, whether the floor is for it.
    tuned: the place of the row that is the tuned side, −1 if it must be summed up.  small, ids, masses: room to work.
    """
    n = len(out)
    base_mass = untuned_mass = shift = 0.0
    if tuned_top_p < 1:
        # With a floor it decides about the set as well.
        row = rows[untuned][:n]
        untuned_mass = exact_log_mass(row) if floor > -np.inf else log_mass(row)
    if base_top_p < 1 or tuned_top_p < 1:
        base_mass = log_mass(rows[base][:n])
    floors = np.full(len(rows), -np.inf)
    if floor > -np.inf:
        for m in range(len(rows)):
            if floored[m]:
                row = rows[m][:n]
                if tuned_top_p < 1:
                    floors[m] = floor + (untuned_mass if m == untuned else exact_log_mass(row))
                else:
                    floors[m] = floor + log_mass(row)
    if tuned_top_p < 1:
        # Inside the set log-probabilities are added to `small`, so the masses of their models count.
        shift = factors[base] * (untuned_mass - base_mass)
    _sum_into(rows, factors, floors, shift, out)
    sure = True
    if tuned_top_p < 1 and tuned >= 0:
        sure &= _leave_outside(rows[tuned][:n], False, tuned_top_p, out, ids, masses)
    elif tuned_top_p < 1:
        _sum_into(rows, small_factors, floors, 0.0, small)
        sure &= _leave_outside(small, True, tuned_top_p, out, ids, masses)
    if base_top_p < 1 or base_min_p > 0:
        sure &= _rule_out(rows[base][:n], base_top_p, base_min_p, base_mass, out, ids, masses)
    return sure


@numba.njit(cache=True, error_model="numpy")
def _leave_outside(small, summed, top_p, out, ids, masses):  # type: ignore[no-untyped-def]
    """out[i] = small[i] for tokens outside the top-p set of `small`; returns whether that is sure to be the set.

    summed: whether `small` is a sum of rows.
    """
    border, ties, sure = _top_p_border(small, top_p, log_mass(small), ids, masses)
    if summed and sure:
        # Sums that are equal here may differ in the reference, and the other way round.
        near = ties
        for i in range(len(small)):
            near += (small[i] != border) & (abs(small[i] - border) <= NEAR)
        sure = near == 0
    for i in range(len(out)):
        outside = small[i] if small[i] < border else -np.inf
        # + 0: see kernels._sum_block.
        out[i] = out[i] + np.float32(0) if small[i] >= border else outside
    for token in ids[:ties]:
        out[token] = small[token]
    return sure


@numba.njit(cache=True, error_model="numpy")
def _rule_out(base, top_p, min_p, mass, out, ids, masses):  # type: ignore[no-untyped-def]
    """out[i] = −inf where the base finds token i implausible; if nothing would be left, the largest stays.

    Returns whether the top-p set is sure.
    """
    highest, border, ties, sure = peak(base), -np.inf, 0, True
    if top_p < 1:
        border, ties, sure = _top_p_border(base, top_p, mass, ids, masses)
    lowest = max(border, highest + np.log(min_p) - ROUNDING)
    if lowest > border:
        ties = 0
    left = 0
    for i in range(len(out)):
        left += (lowest <= base[i]) & (base[i] <= highest) & (out[i] > -np.inf)
    for token in ids[:ties]:
        left -= out[token] > -np.inf
    likeliest = 0 if left else np.argmax(out)
    largest = out[likeliest]
    for i in range(len(out)):
        out[i] = out[i] + np.float32(0) if (lowest <= base[i]) & (base[i] <= highest) else -np.inf
    for token in ids[:ties]:
        out[token] = -np.inf
    if not left:
        out[likeliest] = largest
    return sure


@numba.njit(cache=True, error_model="numpy")
def _sum_into(rows, factors, floors, shift, out):  # type: ignore[no-untyped-def]
    """As `blend_into`, each model's logits raised to its floor and `shift` added; models of factor 0 are left out."""
    total = np.empty(BLOCK, np.float64)
    for start in range(0, len(out), BLOCK):
        block = out[start : start + BLOCK]
        total[:] = shift
        for m in range(len(rows)):
            row, factor, floor = rows[m][start : start + len(block)], factors[m], floors[m]
            if factor != 0 and floor > -np.inf:
                for i in range(len(block)):
                    total[i] += factor * (row[i] if floor < row[i] < np.inf else floor)
            elif factor != 0:
                for i in range(len(block)):
                    total[i] += factor * row[i]
        for i in range(len(block)):
            block[i] = total[i] + 0.0 if abs(total[i]) < np.inf else -np.inf


@numba.njit(cache=True, error_model="numpy")
def _top_p_border(logits, p, mass, ids, masses):  # type: ignore[no-untyped-def]
    """(border, ties, sure): the top-p set are the tokens of this logit or a larger one, but for ids[:ties], its equals.

    mass: the log_mass of all.  sure: whether the reference's set is the same, for logits up to a thousand.
    """
    # What float32 may make of the sum of all: one rounding for each term of a place, and those of a term itself, whose
    # exponent is ln n on average at most.
    error = 2.0**-24 * (len(logits) / BLOCK + 32)
    border, ties, sure = _border(logits, p, mass, error, ids, masses)
    if not sure:
        border, ties, sure = _border(logits, p, exact_log_mass(logits), 0.0, ids, masses)
    return border, ties, sure


@numba.njit(cache=True, error_model="numpy")
def _border(logits, p, mass, error, ids, masses):  # type: ignore[no-untyped-def]
    """(border, ties, sure) by a `mass` of this `error`.

    A histogram of probability over the logits finds the bin in which p is reached, then one of that bin alone, until
    there are few tokens to sort, or only equals.
    """
    missing = p - ROUNDING
    count = _collect_likeliest(logits, p, mass, ids, masses)
    if count == 0:
        return np.inf, 0, True
    # And what float64 may: half a unit for each token in a running sum, here and in the reference, and for what it is
    # that they sum up.
    error += 2.0**-52 * (count + 16 * BLOCK + 8 * abs(mass))
    mass_of_bin = np.empty(BINS, np.float64)
    while count > FEW:
        high, low = -np.inf, np.inf
        for token in ids[:count]:
            high, low = max(high, logits[token]), min(low, logits[token])
        if high == low:
            break
        # The lowest falls into the last bin, so that each round has fewer tokens to look at.
        scale = (BINS - 0.5) / (high - low)
        mass_of_bin[:] = 0
        for j in range(count):
            mass_of_bin[int((high - logits[ids[j]]) * scale)] += masses[j]
        reaching = 0
        while reaching < BINS - 1 and mass_of_bin[reaching] < missing:
            missing -= mass_of_bin[reaching]
            reaching += 1
        kept = 0
        for j in range(count):
            if int((high - logits[ids[j]]) * scale) == reaching:
                ids[kept], masses[kept] = ids[j], masses[j]
                kept += 1
        count = kept
    _sort(logits, ids[:count], masses)
    j = 0
    while j < count - 1 and masses[j] < missing:
        missing -= masses[j]
        j += 1
    border, ties = logits[ids[j]], 0
    # Of logits this near to 0 float32 tells more apart than are left when the mass has been subtracted.
    sure = error < missing < masses[j] - error and abs(border) > 1e-7 * (abs(mass) + 20)
    for token in ids[j + 1 : count]:
        if logits[token] == border:
            ids[ties] = token
            ties += 1
    return border, ties, sure


@numba.njit(cache=True, error_model="numpy")
def _collect_likeliest(logits, p, mass, ids, masses):  # type: ignore[no-untyped-def]
    """Tokens that make up p at least, with their probabilities; returns how many they are.

    Of m tokens less likely than (1 − p) / m each, all together have less than 1 − p, and p is reached without them.
    m = n is always true, and m = 1000 mostly, in a model's long tail; it leaves far fewer to look at.
    """
    count = 0
    for m in (1000, len(logits)):
        lowest = mass + np.log((1 - p) / m)
        count, collected = 0, 0.0
        for start in range(0, len(logits), CHUNK):
            chunk = logits[start : start + CHUNK]
            found = 0
            for i in range(len(chunk)):
                found += lowest <= chunk[i]
            if found:
                for i in range(len(chunk)):
                    if lowest <= chunk[i] < np.inf:
                        ids[count], masses[count] = start + i, np.exp(chunk[i] - mass)
                        collected += masses[count]
                        count += 1
        if collected >= p:
            break
    return count


@numba.njit(cache=True, error_model="numpy")
def _sort(logits, ids, masses):  # type: ignore[no-untyped-def]
    """By falling logit, equals as they stand. Insertion: it is for few, and for many that are equal."""
    for j in range(1, len(ids)):
        token, mass = ids[j], masses[j]
        k = j
        while k > 0 and logits[ids[k - 1]] < logits[token]:
            ids[k], masses[k] = ids[k - 1], masses[k - 1]
            k -= 1
        ids[k], masses[k] = token, mass
