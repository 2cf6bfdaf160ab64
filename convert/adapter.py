"""Writing LoRA adapters for llama.cpp.

llama.cpp adds (alpha / rank · B A) x, with one alpha for the whole file. Whatever scale a layer's product has beyond
that is multiplied into its B.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter
from numpy.typing import NDArray

from eft_gguf.errors import ModelFileError

from .writing import PlannedTensor, Progress, planned, write_gguf


@dataclass(slots=True)
class Pair:
    """A layer's two matrices, (rank, columns) and (rows, rank), and what their product is multiplied by."""

    a: NDArray[np.float32]
    b: NDArray[np.float32]
    scale: float = 1.0

    @property
    def rank(self) -> int:
        return int(self.b.shape[1])  # of an embedding too, whose A stands the other way round


def common_alpha(pairs: Mapping[str, Pair]) -> float:
    """The one alpha that lets most layers keep their B as it is."""
    alphas = [pair.scale * pair.rank for pair in pairs.values()]
    return max(set(alphas), key=alphas.count)


def write_adapter(
    path: Path, architecture: str, name: str, pairs: Mapping[str, Pair], *, half: bool, progress: Progress
) -> None:
    """Write pairs by the names of the weights that they adapt. `half`: as F16. Raises OSError, ModelFileError."""
    alpha = common_alpha(pairs)
    writer = GGUFWriter(None, architecture)
    writer.add_type("adapter")
    writer.add_name(name)
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", alpha)
    tensors = []
    for weight, pair in pairs.items():
        b = pair.b * np.float32(pair.scale * pair.rank / alpha)
        for ending, matrix in (("lora_a", pair.a), ("lora_b", b)):
            tensors.append(_half(f"{weight}.{ending}", matrix) if half else planned(f"{weight}.{ending}", matrix))
    write_gguf(path, writer, tensors, progress=progress)


def _half(name: str, matrix: NDArray[np.float32]) -> PlannedTensor:
    with np.errstate(over="ignore"):
        data: NDArray[Any] = np.ascontiguousarray(matrix, np.float16)
    if not np.isfinite(data).all():
        raise ModelFileError(f"{name} has numbers beyond the range of F16", hint="pass --dtype f32")
    return PlannedTensor(name, data.shape, GGMLQuantizationType.F16, lambda: (data,))
