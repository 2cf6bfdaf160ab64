"""What a fine-tuning has changed, as a LoRA adapter: the best of a given rank for each matrix.

For each weight the difference D = tuned − untuned is cut to rank r by its singular values (Eckart and Young, 1936):
with U the first r left singular vectors, D ≈ U (Uᵀ D). They come from the smaller of D Dᵀ and Dᵀ D, in float64.

An adapter has no place for vectors. A norm's weights g scale what the next layers W see, so that W' diag(g'/g) − W says
what both changed together; that goes into D. What is left, such as embeddings that are the output layer too, is told.
Untied, embedding and output layer are two tensors, and an adapter has a place for either.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGUFWriter
from numpy.typing import NDArray

from eft_gguf.errors import CompatibilityError, OptionError

from .adapter import Pair, write_adapter
from .check import require_computing
from .divergence import TEXT, Member, kl, rows
from .gguf_file import GGUFFile
from .hf import convert_checkpoint
from .writing import Progress, silent, write_gguf, written_aside

DEFAULT_RANK = 32
EXACT = (0, 1, 30)  # F32, F16, BF16
NORMS = {
    "attn_norm.weight": ("attn_q.weight", "attn_k.weight", "attn_v.weight"),
    "ffn_norm.weight": ("ffn_gate.weight", "ffn_up.weight"),
    "output_norm.weight": ("output.weight",),
}
"""Norm → the layers that alone see what it gives."""
FOLDING = ("llama", "qwen2", "qwen3", "gemma3")
"""Architectures of which that holds. A Falcon's norms have biases too."""
EMBEDDING, OUTPUT = "token_embd.weight", "output.weight"
TINY = 1e-6


@dataclass
class Layer:
    """One weight. change: |D| / |untuned|.  error: |D − B A| / |D|, all as Frobenius norms."""

    name: str
    rank: int
    change: float
    error: float


@dataclass
class Delta:
    """What was made. kl, kl_without: of the true tuned model from untuned with the adapter, and from untuned alone,
    in nats a token. left_out: tensors whose change the adapter cannot hold → |change| / |untuned|.  untied: the copy of
    untuned that the adapter is for, where that is not untuned itself.
    """

    path: str
    architecture: str
    size_bytes: int
    layers: list[Layer]
    kl: float
    kl_without: float
    tokens: int
    left_out: dict[str, float]
    untied: str | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def error(self) -> float:
        """Of all layers together."""
        weights = np.array([layer.change**2 for layer in self.layers])
        errors = np.array([layer.error**2 for layer in self.layers])
        return float(np.sqrt((weights * errors).sum() / max(weights.sum(), TINY**2)))

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "error": self.error}


def extract_delta(
    untuned: Path,
    tuned: Path,
    output: Path,
    *,
    rank: int | None = None,
    energy: float | None = None,
    untie: Path | None = None,
    text: str = TEXT,
    dtype: str = "f16",
    force: bool = False,
    progress: Progress = silent,
) -> Delta:
    """Write the difference of two models, GGUF files or checkpoint folders, as an adapter on the first.

    rank: of each weight, at most; 32 unless `energy` is given.  energy: the share of |D|² to keep, at least, which then
    decides the rank.  untie: where to write a copy of `untuned` whose output layer is a tensor of its own; the adapter
    is for that then. Raises CompatibilityError for models that differ in more than numbers, OptionError, LoadError.
    """
    if energy is not None and not 0 < energy <= 1:
        raise OptionError(f"the energy is {energy}", hint="it must be above 0 and at most 1, as in --energy 0.95")
    if rank is not None and rank < 1:
        raise OptionError(f"the rank is {rank}", hint="it must be at least 1")
    if energy is None and rank is None:
        rank = DEFAULT_RANK
    if untie is not None and untie.absolute() == output.absolute():
        raise OptionError(f"{output} is named for the adapter and for the untied model", hint="name two files")
    with ExitStack() as stack:
        aside = stack.enter_context(written_aside(output, force=force, sources=(untuned, tuned)))
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=output.parent, prefix=f".{output.name}.")))
        paths = [_as_gguf(path, folder, progress) for path in (untuned, tuned)]
        if untie is not None:
            copy = stack.enter_context(written_aside(untie, force=force, sources=(untuned, tuned)))
            for number, target in enumerate((copy, folder / "tuned.gguf")):
                write_untied(paths[number], target, progress)
                paths[number] = target
        before, after = (GGUFFile(path) for path in paths)
        _require_same_layout(before, after)
        pairs, layers, left_out = _take_apart(before, after, rank, energy, progress)
        if not pairs:
            raise OptionError(
                f"{untuned.name} and {tuned.name} do not differ in any weight that an adapter can change",
                hint="give the model before and after its fine-tuning",
            )
        write_adapter(aside, before.architecture, output.stem, pairs, half=dtype == "f16", progress=progress)
        require_computing(aside, untuned=paths[0])
        compared = _divergences(paths, aside, text, progress)
    return Delta(
        path=str(output),
        architecture=before.architecture,
        size_bytes=output.stat().st_size,
        layers=layers,
        kl=float(np.mean([row[0] for row in compared])),
        kl_without=float(np.mean([row[1] for row in compared])),
        tokens=len(compared),
        left_out=left_out,
        untied=None if untie is None else str(untie),
        notes=_notes([before, after], left_out),
    )


def write_untied(source: Path, output: Path, progress: Progress = silent) -> None:
    """Copy a model whose output layer is its embedding, with a tensor for each. It computes the same.

    Raises OptionError where the model has two already.
    """
    file = GGUFFile(source)
    if OUTPUT in file.tensors:
        raise OptionError(f"{source.name} has an output layer of its own", hint="leave --untie out: it needs none")
    file.give_another_name(EMBEDDING, OUTPUT)
    writer = GGUFWriter(None, file.architecture)
    file.copy_keys(writer, {})
    write_gguf(output, writer, [file.as_planned(name) for name in file.tensors], progress=progress)


def _take_apart(
    untuned: GGUFFile, tuned: GGUFFile, rank: int | None, energy: float | None, progress: Progress
) -> tuple[dict[str, Pair], list[Layer], dict[str, float]]:
    """Pairs by weight, what is told of each, and what has no place in an adapter."""
    pairs: dict[str, Pair] = {}
    layers: list[Layer] = []
    left_out: dict[str, float] = {}
    names, norms = list(untuned.tensors), _norms(untuned)
    for number, name in enumerate(names):
        progress(f"taking {name} apart", number / len(names))
        difference, size = _difference(untuned, tuned, name, norms)
        change = float(np.linalg.norm(difference)) / max(size, TINY)
        if change < TINY or name in norms:
            continue
        if not _adaptable(name, untuned):
            left_out[name] = change
            continue
        pair, error = truncated(difference, rank, energy)
        pairs[name] = _as_embedding(pair) if name == EMBEDDING else pair
        layers.append(Layer(name, pair.rank, change, error))
    return pairs, layers, left_out


def truncated(difference: NDArray[np.float32], rank: int | None, energy: float | None) -> tuple[Pair, float]:
    """The best product of two matrices for a difference, and its error relative to it, as Frobenius norms."""
    wide = difference.shape[0] <= difference.shape[1]
    matrix = difference.astype(np.float64)
    gram = matrix @ matrix.T if wide else matrix.T @ matrix
    values, vectors = np.linalg.eigh(gram)
    values, vectors = np.maximum(values[::-1], 0.0), vectors[:, ::-1]
    kept = np.cumsum(values) / max(float(values.sum()), TINY**4)
    count = len(values) if rank is None else min(rank, len(values))
    if energy is not None:
        count = min(count, int(np.searchsorted(kept, energy - 1e-12)) + 1)
    vectors = vectors[:, :count]
    # Both halves of about one size, so that F16 serves both.
    root = np.sqrt(np.maximum(np.sqrt(values[:count]), TINY))
    b, a = (vectors, vectors.T @ matrix) if wide else (matrix @ vectors, vectors.T)
    b, a = (b * root, a / root[:, None]) if wide else (b / root, a * root[:, None])
    error = float(np.sqrt(max(0.0, 1.0 - float(kept[count - 1]))))
    return Pair(a.astype(np.float32), b.astype(np.float32)), error


def _as_embedding(pair: Pair) -> Pair:
    """llama.cpp looks rows of an embedding up in A: (tokens, rank), and B is (width, rank)."""
    return Pair(pair.b, np.ascontiguousarray(pair.a.T))


def _difference(
    untuned: GGUFFile, tuned: GGUFFile, name: str, norms: Mapping[str, set[str]]
) -> tuple[NDArray[np.float32], float]:
    """tuned − untuned of a tensor, with the change of the norm before it, and the Frobenius norm of untuned's."""
    before, after = untuned.read(name), tuned.read(name)
    norm = next((norm for norm, weights in norms.items() if name in weights), None)
    if norm is not None:
        after = after * (tuned.read(norm) / untuned.read(norm))
    return after - before, float(np.linalg.norm(before))


def _norms(file: GGUFFile) -> dict[str, set[str]]:
    """Norms whose change goes into the layers after them. One with zeros among its weights cannot."""
    if file.architecture not in FOLDING:
        return {}
    found = {}
    for name in file.tensors:
        prefix = name[: name.find(".", 4) + 1] if name.startswith("blk.") else ""
        weights = {prefix + weight for weight in NORMS.get(name.removeprefix(prefix), ())}
        if weights and weights <= file.tensors.keys() and np.abs(file.read(name)).min() > TINY:
            found[name] = weights
    return found


def _adaptable(name: str, file: GGUFFile) -> bool:
    """Whether llama.cpp has a place for an adapter there. In an embedding only where it is no output layer too."""
    if len(file.tensors[name].shape) != 2:
        return False
    return name.startswith("blk.") or (name in (EMBEDDING, OUTPUT) and OUTPUT in file.tensors)


def _require_same_layout(untuned: GGUFFile, tuned: GGUFFile) -> None:
    if untuned.architecture != tuned.architecture:
        raise CompatibilityError(
            f"untuned is of architecture {untuned.architecture!r}, tuned of {tuned.architecture!r}",
            hint="give one model before and after its fine-tuning",
        )
    for name in sorted({*untuned.tensors, *tuned.tensors}):
        shapes = [file.tensors[name].shape if name in file.tensors else None for file in (untuned, tuned)]
        if shapes[0] != shapes[1]:
            hint = "give one model before and after its fine-tuning"
            if name in (EMBEDDING, OUTPUT):
                hint = "make the vocabularies equal first: eft-gguf convert align"
            raise CompatibilityError(f"{name} is {shapes[0]} in untuned and {shapes[1]} in tuned", hint=hint)


def _as_gguf(path: Path, folder: Path, progress: Progress) -> Path:
    if not path.is_dir():
        return path
    made = folder / f"{len(list(folder.iterdir()))}.gguf"
    convert_checkpoint(path, made, progress=progress)
    return made


def _divergences(paths: list[Path], adapter: Path, text: str, progress: Progress) -> list[tuple[float, float]]:
    untuned, tuned = paths
    members = (Member(tuned), Member(untuned, adapter), Member(untuned))
    return [(kl(true, adapted), kl(true, plain)) for true, adapted, plain in rows(members, text, progress)]


def _notes(files: list[GGUFFile], left_out: dict[str, float]) -> list[str]:
    notes = []
    if left_out:
        worst = max(left_out, key=lambda name: left_out[name])
        notes.append(
            f"{len(left_out)} changed tensors have no place in an adapter; the most changed is {worst}, by "
            f"{left_out[worst]:.2%}"
        )
    if EMBEDDING in left_out:
        notes.append("the embedding is the output layer too: --untie FILE makes a copy of untuned where it is not")
    kinds = {tensor.kind for file in files for tensor in file.tensors.values()}
    if not kinds <= set(EXACT):
        notes.append("the models are quantized, and their noise is a part of the difference: take them at F16 or BF16")
    return notes
