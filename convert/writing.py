"""How outputs are written: aside, tensor by tensor, renamed once they are whole and were checked."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter
from gguf.constants import GGML_QUANT_SIZES
from numpy.typing import NDArray

from eft_gguf.errors import OptionError
from eft_gguf.files import aside

CHUNK = 1 << 25
"""Bytes of a tensor that are worked on at a time: what is held in memory beside the largest tensor."""

Progress = Callable[[str, float], None]
"""Called with what is going on and how much of it is done, from 0 to 1."""


def silent(what: str, done: float) -> None:
    """Progress that nobody looks at."""


@contextmanager
def written_aside(path: Path, *, force: bool = False, sources: Iterable[Path] = ()) -> Iterator[Path]:
    """A path beside `path` to write to. It is renamed after the block, and removed where the block raises.

    Raises OptionError where `path` exists and not `force`, where it is one of `sources`, or cannot be written.
    """
    refuse_overwriting(path, force=force, sources=sources)
    try:
        with aside(path) as beside:
            yield beside
    except OSError as error:
        if error.filename is not None and Path(error.filename) in sources:
            raise
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        reason = "the disk is full" if full else error.strerror or str(error)
        hint = "free some space, or write to another disk" if full else "name another file"
        raise OptionError(f"cannot write {path}: {reason}", hint=f"{hint}; nothing was written") from None


def refuse_overwriting(path: Path, *, force: bool, sources: Iterable[Path] = ()) -> None:
    """Raise OptionError where an output would take the place of what is there, or has no folder to be in."""
    if not path.parent.is_dir():
        raise OptionError(f"there is no folder {path.parent}", hint=f"make it: mkdir -p {path.parent}")
    if path.is_dir():
        raise OptionError(f"{path} is a folder", hint=f"name a file in it, such as {path / 'model.gguf'}")
    if not path.exists():
        return
    if not path.is_file():
        raise OptionError(f"{path} is a device or a pipe", hint="name a file: models are read again as they are made")
    if any(source.exists() and path.samefile(source) for source in sources):
        raise OptionError(f"{path} is what is read from", hint="name another output")
    if not force:
        raise OptionError(f"{path} exists already", hint="name another output, or pass --force to replace it")


@dataclass(frozen=True, slots=True)
class PlannedTensor:
    """A tensor to be written. shape: as in NumPy.  blocks: makes its data when it is its turn, whole rows at a time."""

    name: str
    shape: tuple[int, ...]
    kind: GGMLQuantizationType
    blocks: Callable[[], Iterable[NDArray[Any]]]

    @property
    def size_bytes(self) -> int:
        elements, size = GGML_QUANT_SIZES[self.kind]
        return prod(self.shape) // int(elements) * int(size)


def planned(name: str, array: NDArray[np.float32]) -> PlannedTensor:
    """A small tensor that is there already, as F32."""
    data = np.ascontiguousarray(array, np.float32)
    return PlannedTensor(name, data.shape, GGMLQuantizationType.F32, lambda: (data,))


def write_gguf(
    path: Path, writer: GGUFWriter, tensors: Sequence[PlannedTensor], *, progress: Progress = silent
) -> None:
    """Write a file of the keys that `writer` was given and these tensors. Raises OSError, OptionError.

    The writer of the gguf package holds whole tensors; here their data follow its header block by block.
    """
    total = sum(tensor.size_bytes for tensor in tensors)
    free = shutil.disk_usage(path.parent).free
    if total > free:
        raise OptionError(
            f"the output needs {total:,} bytes, {path.parent.resolve()} has {free:,} free",
            hint="free some space, or write to another disk",
        )
    for tensor in tensors:
        writer.add_tensor_info(
            tensor.name, tensor.shape, np.dtype(np.float32), tensor.size_bytes, raw_dtype=tensor.kind
        )
    writer.write_header_to_file(path)
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    done = 0
    with path.open("ab") as file:
        for tensor in tensors:
            _pad(file, writer.data_alignment)
            begin = file.tell()
            for block in tensor.blocks():
                file.write(np.ascontiguousarray(block).data.cast("B"))
                progress(f"writing {tensor.name}", (done + file.tell() - begin) / max(1, total))
            written = file.tell() - begin
            if written != tensor.size_bytes:
                raise AssertionError(f"{tensor.name}: {written:,} bytes made, {tensor.size_bytes:,} announced")
            done += written
        _pad(file, writer.data_alignment)


def _pad(file: Any, alignment: int) -> None:
    file.write(bytes(-file.tell() % alignment))
