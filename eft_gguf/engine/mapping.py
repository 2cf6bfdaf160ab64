"""Model files in memory: only the pages that are used."""

from __future__ import annotations

import ctypes
import mmap
import os
import sys
from pathlib import Path


def unmap_until_used(path: Path) -> None:
    """Let the pages of a mapped file come into memory as they are read. Does nothing elsewhere than on Linux.

    llama.cpp maps a model with all its pages. But of the embedding table a token reads one row, and where the output
    layer has weights of its own, that table is an eighth of the file (Qwen2.5 1.5B) or a sixth (0.5B): memory that
    holds nothing anyone reads. The file stays in the system's cache, so a page costs a microsecond when it is first
    read, and the first decode some 50 ms a gigabyte.
    """
    if sys.platform != "linux":
        return
    libc = ctypes.CDLL(None)
    name = os.path.realpath(path)
    for line in Path("/proc/self/maps").read_text(errors="surrogateescape").splitlines():
        span, _mode, _offset, _device, _inode, *mapped = line.split(maxsplit=5)
        if mapped == [name]:
            start, end = (int(address, 16) for address in span.split("-"))
            # Advice only: where it is refused, the pages stay.
            libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), mmap.MADV_DONTNEED)
