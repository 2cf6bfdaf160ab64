"""A Hugging Face checkpoint folder: its configuration, and its tensors read row by row from safetensors files.

Layout of a safetensors file (https://huggingface.co/docs/safetensors): the header's length in eight bytes, the header
as JSON with each tensor's type, shape and place, then the data. NumPy has no bfloat16, and mapped pages would count as
memory in use, so rows are read as they are and widened here.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eft_gguf.errors import EFTError, ModelFileError
from eft_gguf.files import read_json as read_from

from .writing import CHUNK

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
DTYPES: dict[str, np.dtype[Any]] = {"F32": np.dtype("<f4"), "F16": np.dtype("<f2"), "BF16": np.dtype("<u2")}
"""How numbers lie in the file. BF16 is the upper half of an F32."""
MAX_HEADER = 100_000_000  # the format's own limit
OTHER_CONVERTER = (
    "convert it with llama.cpp's own converter, which knows more models: "
    "python convert_hf_to_gguf.py FOLDER --outfile OUTPUT.gguf"
)
FETCH_AGAIN = "fetch the checkpoint again, all its files"


@dataclass(frozen=True, slots=True)
class Stored:
    """Where a tensor lies: file, type, shape, first byte."""

    file: Path
    dtype: str
    shape: tuple[int, ...]
    start: int

    @property
    def row_numbers(self) -> int:
        """How many numbers one row has; a vector is rows of one."""
        return math.prod(self.shape[1:])

    def rows(self, start: int, stop: int) -> NDArray[Any]:
        """Rows as they are stored, of shape (stop − start, …). Raises ModelFileError."""
        form = DTYPES[self.dtype]
        numbers = (stop - start) * self.row_numbers
        try:
            with self.file.open("rb") as file:
                file.seek(self.start + start * self.row_numbers * form.itemsize)
                data = np.fromfile(file, form, numbers)
        except OSError as error:
            raise ModelFileError(f"cannot read {self.file}: {error.strerror}", hint="check the disk") from None
        if len(data) != numbers:
            raise ModelFileError(f"{self.file} has become shorter while it was read", hint=FETCH_AGAIN)
        rows: NDArray[Any] = data.reshape(stop - start, *self.shape[1:])
        return rows

    def chunks(self, order: NDArray[np.intp] | None = None) -> Iterator[NDArray[Any]]:
        """All rows as they are stored, some at a time; `order` says which row comes where."""
        count = self.shape[0] if self.shape else 1
        step = max(1, CHUNK // max(1, 4 * self.row_numbers))
        # Rows in another order are picked from the whole tensor. Those are of attention, which are not the largest.
        whole = None if order is None else self.rows(0, count)
        for start in range(0, count, step):
            stop = min(start + step, count)
            yield self.rows(start, stop) if whole is None or order is None else whole[order[start:stop]]


def widened(stored: NDArray[Any], dtype: str) -> NDArray[np.float32]:
    """Numbers as they lie in a file → float32."""
    if dtype == "BF16":
        return (stored.astype(np.uint32) << 16).view(np.float32)
    return stored.astype(np.float32, copy=False)


class Checkpoint:
    """The folder of a model. Raises ModelFileError where it is not whole.

    config: config.json, of a model that also sees images the part of its text model.
    """

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            what = "is no folder" if folder.exists() else "does not exist"
            raise ModelFileError(f"{folder} {what}", hint="give the folder with config.json and the .safetensors files")
        self.folder = folder
        self.top_config = read_json(folder / "config.json", hint="give a model's whole folder, as it was downloaded")
        text = self.top_config.get("text_config") or {}
        self.config: Mapping[str, Any] = {
            **self.top_config,
            **{key: v for key, v in text.items() if key != "architectures"},
        }
        self.tensors = self._tensors()

    def _tensors(self) -> dict[str, Stored]:
        index = self.folder / INDEX
        if not index.exists():
            return read_safetensors(self._single())
        listed = read_json(index, hint=FETCH_AGAIN).get("weight_map")
        if not isinstance(listed, dict) or not all(isinstance(name, str) for name in listed.values()):
            raise ModelFileError(f"{index} has no table weight_map", hint=FETCH_AGAIN)
        names = sorted(set(listed.values()))
        outside = next((name for name in names if Path(name).name != name), None)
        if outside is not None:
            raise ModelFileError(f"{index} names a file outside its folder: {outside}", hint=FETCH_AGAIN)
        missing = [name for name in names if not (self.folder / name).exists()]
        if missing:
            raise ModelFileError(
                f"{self.folder} lacks {len(missing)} of the {len(names)} files that {INDEX} names: {missing[0]}",
                hint=FETCH_AGAIN,
            )
        found = {name: read_safetensors(self.folder / name) for name in names}
        for tensor, name in listed.items():
            if tensor not in found[name]:
                raise ModelFileError(f"{INDEX} says that {tensor} is in {name}, and it is not there", hint=FETCH_AGAIN)
        return {tensor: found[name][tensor] for tensor, name in listed.items()}

    def _single(self) -> Path:
        path = self.folder / SINGLE
        if path.exists():
            return path
        others = sorted(other.name for other in self.folder.glob("*.safetensors"))
        if others:
            raise ModelFileError(f"{self.folder} holds {others[0]}, but neither {SINGLE} nor {INDEX}", hint=FETCH_AGAIN)
        if any(self.folder.glob("pytorch_model*.bin")):
            hint = "load it with transformers and save it again: model.save_pretrained(FOLDER)"
            raise ModelFileError(f"{self.folder} holds weights as .bin files, which can run code when read", hint=hint)
        raise ModelFileError(f"{self.folder} holds no .safetensors file", hint=FETCH_AGAIN)


def read_json(path: Path, *, hint: str) -> dict[str, Any]:
    """A JSON object in a file. Raises ModelFileError."""
    try:
        value = read_from(path)
    except FileNotFoundError:
        raise ModelFileError(f"there is no {path.name} in {path.parent}", hint=hint) from None
    except (OSError, ValueError) as error:
        raise ModelFileError(f"cannot read {path}: {error}", hint=hint) from None
    if not isinstance(value, dict):
        raise ModelFileError(f"{path} holds no JSON object", hint=hint)
    return value


def read_safetensors(path: Path) -> dict[str, Stored]:
    """What a file holds, without reading the numbers. Raises ModelFileError where it is damaged or cut short."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 2 <= length <= min(MAX_HEADER, size - 8):
                raise ValueError(f"a header of {length:,} bytes in a file of {size:,}")
            header = json.loads(file.read(length))
        header.pop("__metadata__", None)
        tensors = {name: _stored(path, entry, 8 + length, size) for name, entry in header.items()}
    except EFTError:
        raise
    except OSError as error:
        raise ModelFileError(f"cannot read {path}: {error.strerror}", hint=FETCH_AGAIN) from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelFileError(f"{path} is no safetensors file, or damaged: {error}", hint=FETCH_AGAIN) from None
    return tensors


def _stored(path: Path, entry: Mapping[str, Any], base: int, size: int) -> Stored:
    begin, end = (int(offset) for offset in entry["data_offsets"])
    shape, dtype = tuple(int(length) for length in entry["shape"]), str(entry["dtype"])
    if base + end > size:
        raise ModelFileError(f"{path} is cut short: it needs {base + end:,} bytes and has {size:,}", hint=FETCH_AGAIN)
    if dtype in DTYPES and end - begin != math.prod(shape) * DTYPES[dtype].itemsize:
        raise ValueError(f"{end - begin:,} bytes for {shape} numbers of type {dtype}")
    return Stored(path, dtype, shape, base + begin)
