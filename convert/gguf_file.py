"""The tensors of a GGUF file as numbers, whatever type they are stored in, and its keys, to be written again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGMLQuantizationType, GGUFValueType, GGUFWriter
from gguf.quants import dequantize
from numpy.typing import NDArray

from eft_gguf.errors import ModelFileError
from eft_gguf.models.header import STRING, TYPE_NAMES, UINT32, StringArray, Tensor, read_header
from eft_gguf.models.metadata import other_parts, read_metadata
from eft_gguf.models.soundness import require_sound

from .writing import CHUNK, PlannedTensor


class GGUFFile:
    """A model file, all its parts. Raises ModelFileError."""

    def __init__(self, path: Path) -> None:
        self.path = path
        require_sound(read_metadata(path))
        header = read_header(path)
        self.values, self.kinds = header.values, header.kinds
        parts = {path: header} | {other: read_header(other) for other in other_parts(path, header.values)}
        self.tensors: dict[str, Tensor] = {}
        self._files: dict[str, Path] = {}
        for file, part in parts.items():
            self.tensors |= part.tensors
            self._files |= dict.fromkeys(part.tensors, file)

    @property
    def architecture(self) -> str:
        return str(self.values.get("general.architecture", ""))

    def raw(self, name: str, start: int = 0, stop: int | None = None) -> NDArray[np.uint8]:
        """Bytes of some rows of a tensor, (rows, bytes a row)."""
        tensor = self.tensors[name]
        rows = tensor.elements // tensor.shape[-1]
        stop = rows if stop is None else stop
        length = tensor.size_bytes // rows
        with self._files[name].open("rb") as file:
            file.seek(tensor.start + start * length)
            data = np.fromfile(file, np.uint8, (stop - start) * length)
        return data.reshape(stop - start, length)

    def read(self, name: str, start: int = 0, stop: int | None = None) -> NDArray[np.float32]:
        """A tensor's numbers, or those of some rows, as NumPy has them. Raises ModelFileError for an unknown type."""
        tensor = self.tensors[name]
        try:
            kind = GGMLQuantizationType(tensor.kind)
            numbers = dequantize(self.raw(name, start, stop), kind)
        except (ValueError, NotImplementedError):
            named = TYPE_NAMES.get(tensor.kind, str(tensor.kind))
            raise ModelFileError(
                f"{self.path}: the tensor {name} is of type {named}, which cannot be read here",
                hint="take the model at F16, BF16, Q8_0 or a k-quant",
            ) from None
        shape = tensor.shape if stop is None else (-1, *tensor.shape[1:])
        return np.asarray(numbers, np.float32).reshape(shape)

    def as_planned(self, name: str) -> PlannedTensor:
        """The tensor to be written again as it is."""
        tensor = self.tensors[name]

        def blocks() -> Iterator[NDArray[Any]]:
            rows = tensor.elements // tensor.shape[-1]
            step = max(1, CHUNK * rows // max(1, tensor.size_bytes))
            for start in range(0, rows, step):
                yield self.raw(name, start, min(start + step, rows))

        return PlannedTensor(name, tensor.shape, GGMLQuantizationType(tensor.kind), blocks)

    def give_another_name(self, name: str, other: str) -> None:
        """Have a tensor under another name as well, as if the file held it twice."""
        self.tensors[other], self._files[other] = self.tensors[name], self._files[name]

    def copy_keys(self, writer: GGUFWriter, changed: Mapping[str, Any], without: Sequence[str] = ()) -> None:
        """Write all keys but `without`, those in `changed` with these values; new ones must be given to `writer`."""
        for key, value in self.values.items():
            if key == "general.architecture" or key.startswith(("GGUF.", "split.")) or key in without:
                continue
            kind, element = self.kinds[key]
            if key in changed:  # the file may have had something of another type there
                value = changed[key]
                kind = {int: UINT32, str: STRING}.get(type(value), kind)
            if isinstance(value, StringArray):
                value = [value[index] for index in range(len(value))]
            elif isinstance(value, np.ndarray):
                value = value.tolist()
            if isinstance(value, list) and not value:
                continue  # the writer knows no empty arrays, and llama.cpp takes a missing one for empty
            writer.add_key_value(key, value, GGUFValueType(kind), None if element is None else GGUFValueType(element))
