"""The kernels of native/eft.h, by ctypes: for machines without Numba. The functions are those of kernels.py.

The shared library is the file that EFT_GGUF_NATIVE_LIB names, or one beside the package's modules (`libeft.so`,
`libeft.dylib`, `eft.dll`). docs/native.md says how to build it.
"""

from __future__ import annotations

import ctypes
import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from eft_gguf.blend.equation import Filter
from eft_gguf.blend.layout import CANDIDATE, Rows
from eft_gguf.errors import EFTError

__all__ = ["CANDIDATE", "FilteredBlend", "Rows"]

ABI = 1
"""EFT_ABI of native/eft.h: a library of another one has other structs or functions."""
BASE, UNTUNED, TUNED, OWN_UNTUNED = range(4)


class Row(ctypes.Structure):
    """`eft_row`: the logits of one model, its factor, and what it is in the blend."""

    _fields_ = (("logits", ctypes.c_void_p), ("factor", ctypes.c_double), ("role", ctypes.c_int))


class FilterValues(ctypes.Structure):
    """`eft_filter`: 1, 1, 0 and −inf are off."""

    _fields_ = tuple((name, ctypes.c_double) for name in ("tuned_top_p", "base_top_p", "base_min_p", "untuned_floor"))


def open_library(path: str | None = None) -> ctypes.CDLL:
    """The shared library at `path`, by default where the module's docstring says. Raises EFTError."""
    beside = Path(__file__).parents[1] / _library_name()
    path = path or os.environ.get("EFT_GGUF_NATIVE_LIB") or (str(beside) if beside.exists() else None)
    if path is None:
        raise EFTError(
            f"EFT_GGUF_KERNELS is native, but there is no {beside}",
            hint="build native/ and name its shared library in EFT_GGUF_NATIVE_LIB (docs/native.md), or unset both",
        )
    try:
        library = ctypes.CDLL(path)
        found = library.eft_abi()
    except (OSError, AttributeError) as error:
        raise EFTError(
            f"the shared library {path} cannot be used: {error}",
            hint="EFT_GGUF_NATIVE_LIB must name the library built from native/ (docs/native.md)",
        ) from error
    if found != ABI:
        raise EFTError(
            f"the shared library {path} is of version {found}, this package needs {ABI}",
            hint="build native/ anew, from the same release",
        )
    size, pointer, real = ctypes.c_size_t, ctypes.c_void_p, ctypes.c_double
    blend = (pointer, size, size)
    for name, result, arguments in (
        ("eft_blend", ctypes.c_int, (*blend, pointer)),
        ("eft_blend_candidates", ctypes.c_int, (*blend, pointer)),
        ("eft_blend_argmax", ctypes.c_int32, blend),
        ("eft_blend_top", size, (*blend, size, pointer, pointer)),
        ("eft_blend_log_probability", real, (*blend, ctypes.c_int32)),
        ("eft_scratch_size", size, (size,)),
        ("eft_blend_filtered", ctypes.c_int, (*blend, ctypes.POINTER(FilterValues), pointer, pointer)),
        ("eft_log_sum_exp", real, (pointer, size)),
    ):
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library


def _library_name() -> str:
    if sys.platform == "win32":
        return "eft.dll"
    return "libeft.dylib" if sys.platform == "darwin" else "libeft.so"


_library = open_library()


def blend_into(rows: Rows, factors: NDArray[np.float64], out: NDArray[np.float32]) -> None:
    """out[i] = the blended logit of token i, as float32."""
    _check(_library.eft_blend(_rows(rows, factors), len(rows), len(out), out.ctypes.data))


def blend_candidates(rows: Rows, factors: NDArray[np.float64], candidates: NDArray[np.void]) -> None:
    """Fill `candidates` (dtype CANDIDATE) with every token's id and blended logit, in the order of the ids."""
    _check(_library.eft_blend_candidates(_rows(rows, factors), len(rows), len(candidates), candidates.ctypes.data))


def blend_argmax(rows: Rows, factors: NDArray[np.float64], n: int) -> int:
    """The token with the largest blended logit, of equal ones the smallest id; 0 where none is possible."""
    return max(0, int(_library.eft_blend_argmax(_rows(rows, factors), len(rows), n)))


def blend_top(rows: Rows, factors: NDArray[np.float64], k: int, candidates: NDArray[np.void]) -> int:
    """Put at least the k largest blended logits into `candidates`, in the order of the ids; returns how many."""
    n = len(candidates)
    scratch = np.empty(_library.eft_scratch_size(n), np.uint8)
    return int(
        _library.eft_blend_top(_rows(rows, factors), len(rows), n, k, scratch.ctypes.data, candidates.ctypes.data)
    )


def blend_log_probability(rows: Rows, factors: NDArray[np.float64], n: int, token: int) -> float:
    """The natural log-probability of `token` under the blend."""
    return float(_library.eft_blend_log_probability(_rows(rows, factors), len(rows), n, token))


def log_mass(logits: NDArray[np.float32]) -> float:
    """log Σ exp(logit) over the finite logits; 0 if there is none."""
    return float(_library.eft_log_sum_exp(logits.ctypes.data, len(logits)))


class FilteredBlend:
    """Blends rows of `n` logits under a filter, into an array that it owns: a view until the next call.

    untuned: which members are untuned models.
    """

    def __init__(self, n: int, untuned: Sequence[int] = (1,)) -> None:
        self._untuned = tuple(untuned)
        self._blended = np.empty(n, np.float32)
        self._scratch = np.empty(_library.eft_scratch_size(n), np.uint8)

    def __call__(
        self, rows: Rows, members: Sequence[int], factors: Sequence[float], filter: Filter
    ) -> NDArray[np.float32]:
        """The blended logits, shape (n,), up to a constant; −inf for tokens that are ruled out.

        rows: logits of the `members_needed`, each of shape (n,) or longer.  members: which these are.
        factors: of all members, as `coefficients` gives them.
        """
        filter = filter.in_force(factors, self._untuned)
        values = FilterValues(
            1.0 if filter.tuned_top_p is None else filter.tuned_top_p,
            1.0 if filter.base_top_p is None else filter.base_top_p,
            0.0 if filter.base_min_p is None else filter.base_min_p,
            -math.inf if filter.untuned_floor is None else filter.untuned_floor,
        )
        _check(
            _library.eft_blend_filtered(
                _rows(rows, [factors[member] for member in members], [self._role(member) for member in members]),
                len(rows),
                len(self._blended),
                values,
                self._scratch.ctypes.data,
                self._blended.ctypes.data,
            )
        )
        return self._blended

    def _role(self, member: int) -> int:
        if member <= UNTUNED:
            return member
        return OWN_UNTUNED if member in self._untuned else TUNED


def _rows(
    rows: Rows, factors: Sequence[float] | NDArray[np.float64], roles: Sequence[int] | None = None
) -> ctypes.Array[Row]:
    structs = (Row * len(rows))()
    for place, (struct, row) in enumerate(zip(structs, rows, strict=True)):
        struct.logits = row.ctypes.data
        struct.factor = factors[place]
        struct.role = TUNED if roles is None else roles[place]
    return structs


def _check(status: int) -> None:
    if status != 0:
        raise EFTError("the shared library refused a blend", hint="it blends 64 models at most")
