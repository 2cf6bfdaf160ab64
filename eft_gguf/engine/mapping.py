"""Model files in memory: only the pages that are used."""

from __future__ import annotations

import ctypes
import mmap
import os
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

from eft_gguf.models.header import read_header


def unmap_until_used(path: Path) -> None:
    """Let the pages of a mapped file come into memory as they are read. Does nothing elsewhere than on Linux.

    llama.cpp maps a model with all its pages. But of the embedding table a token reads one row, and where the output
    layer has weights of its own, that table is an eighth of the file (Qwen2.5 1.5B) or a sixth (0.5B): memory that
    holds nothing anyone reads. The file stays in the system's cache, so a page costs a microsecond when it is first
    read, and the first decode some 50 ms a gigabyte.
    """
    for start, end, _offset in _mappings(path):
        _advise(start, end, mmap.MADV_DONTNEED)


def keep_tensors_apart(path: Path) -> None:
    """Have a page that is read bring in none of other tensors. Does nothing elsewhere than on Linux.

    Recent kernels map up to 2 MB around a page at once, within one mapping: of weights that were repacked, and are
    never read again, most would come back into memory with those between them. A flag that every other tensor has
    makes mappings of them; this one only leaves the file out of core dumps.
    """
    page = mmap.PAGESIZE
    tensors = read_header(path).tensors.values()
    # Whole pages; what is smaller goes with the tensor before it.
    starts = sorted(tensor.start // page * page for tensor in tensors if tensor.size_bytes >= 2 * page)
    for first, last, offset in list(_mappings(path)):
        for start, end in list(pairwise(starts))[::2]:
            if offset <= start < end <= offset + last - first:
                _advise(first + start - offset, first + end - offset, mmap.MADV_DONTDUMP)


def _mappings(path: Path) -> Iterator[tuple[int, int, int]]:
    """Where a file is in memory: first address, the one after the last, and what place in the file the first has."""
    if sys.platform != "linux":
        return
    name = os.path.realpath(path)
    for line in Path("/proc/self/maps").read_text(errors="surrogateescape").splitlines():
        span, _mode, offset, _device, _inode, *mapped = line.split(maxsplit=5)
        if mapped == [name]:
            start, end = (int(address, 16) for address in span.split("-"))
            yield start, end, int(offset, 16)


def _advise(start: int, end: int, advice: int) -> None:
    """Advice only: where the system refuses it, all stays as it is."""
    ctypes.CDLL(None).madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), advice)
