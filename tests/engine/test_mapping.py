"""Pages of a mapped file go, and come back when they are read."""

import mmap
import sys
from pathlib import Path

import pytest

from eft_gguf.engine.mapping import unmap_until_used

SIZE = 1 << 20


def resident(path: Path) -> int:
    """Bytes of a mapped file that are in this process's memory."""
    total, ours = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if "-" in line.split(" ", 1)[0]:
            ours = line.endswith(str(path))
        elif ours and line.startswith("Rss:"):
            total += int(line.split()[1]) * 1024
    return total


@pytest.mark.skipif(sys.platform != "linux", reason="tells of its memory in /proc on Linux only")
def test_pages_go_and_come_back_when_read(tmp_path):
    path, other = tmp_path / "a model.gguf", tmp_path / "other.gguf"
    for file in (path, other):
        file.write_bytes(b"x" * SIZE)
    link = tmp_path / "link.gguf"
    link.symlink_to(path)
    with path.open("rb") as file, other.open("rb") as second:
        data, untouched = (mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ) for f in (file, second))
    with data, untouched:
        assert data[:] == untouched[:] == b"x" * SIZE
        unmap_until_used(link)
        assert resident(path) == 0
        assert resident(other) == SIZE
        assert data[SIZE - 1 :] == b"x"
        assert resident(path) > 0
        assert data[:] == b"x" * SIZE
