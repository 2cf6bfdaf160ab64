"""Pages of a mapped file go, and come back when they are read; and what loading gives back of them."""

import mmap
import sys
from pathlib import Path

import numpy as np
import pytest
from gguf import GGUFWriter

from eft_gguf.convert.writing import planned, write_gguf
from eft_gguf.engine import llama
from eft_gguf.engine.mapping import keep_tensors_apart, unmap_until_used
from eft_gguf.models.metadata import read_metadata

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


@pytest.mark.skipif(sys.platform != "linux", reason="tells of its memory in /proc on Linux only")
def test_a_page_that_is_read_brings_in_none_of_another_tensor(tmp_path):
    path, pages = tmp_path / "model.gguf", 64
    tensors = [planned(f"{name}.weight", np.ones((pages, mmap.PAGESIZE // 4), np.float32)) for name in "abc"]
    write_gguf(path, GGUFWriter(None, "llama"), tensors)
    starts = {name: tensor.start for name, tensor in read_metadata(path).tensors.items()}
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        assert data[:] == path.read_bytes()
        keep_tensors_apart(path)
        unmap_until_used(path)
        last_page = starts["b.weight"] // mmap.PAGESIZE * mmap.PAGESIZE - 1
        assert data[last_page : last_page + 1]
        # The last page of the first tensor, and at most the rest of it.
        assert 0 < resident(path) <= (pages + 1) * mmap.PAGESIZE
        with_two = resident(path)
        assert data[starts["c.weight"] + pages * mmap.PAGESIZE // 2 :][:1]
        assert resident(path) > with_two


def test_loading_gives_pages_back_tensor_by_tensor(tiny, monkeypatch):
    given_back = []
    monkeypatch.setattr(llama, "unmap_until_used", given_back.append)
    model = llama.Model(tiny.base)
    tensors = len(read_metadata(tiny.base).tensors)
    model.close()
    assert given_back == [tiny.base] * len(given_back) and len(given_back) > tensors


def test_an_interrupt_stops_loading_and_is_raised(tiny, monkeypatch):
    calls = []

    def interrupt(path):
        calls.append(path)
        if len(calls) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(llama, "unmap_until_used", interrupt)
    with pytest.raises(KeyboardInterrupt):
        llama.Model(tiny.base)
    assert len(calls) == 3
