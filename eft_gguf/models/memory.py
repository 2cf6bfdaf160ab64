"""What models need of memory, from their files alone: weights, repacked copies of them, KV caches."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from eft_gguf.errors import OptionError
from eft_gguf.models.header import BLOCKS
from eft_gguf.models.metadata import GGUFMetadata

KV_TYPES = {"f32": 0, "f16": 1, "bf16": 30, "q8_0": 8, "q5_1": 7, "q5_0": 6, "q4_1": 3, "q4_0": 2, "iq4_nl": 20}
"""How cached numbers may be kept: llama.cpp's name → its number for the type. It aborts the process over others."""
PLAIN_KV_TYPES = ("f32", "f16", "bf16")

CTX_MULTIPLE = 256
"""llama.cpp rounds the cells of a KV cache up to a multiple of this."""


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes. files: the weights, each file once.  repacked: copies of weights, at most.  kv: the KV caches."""

    files: int
    repacked: int
    kv: int

    @property
    def total(self) -> int:
        """All together; compute buffers and the program itself come on top, some 200 MB."""
        return self.files + self.repacked + self.kv


def needed(
    members: Mapping[str, GGUFMetadata],
    *,
    ctx: int,
    sequences: int = 1,
    kv_type: str = "f16",
    repack: bool = False,
    untuned_of: Mapping[str, str] | None = None,
) -> Memory:
    """What members (base, untuned, traits; adapters among them) need, each with a KV cache of its own.

    untuned_of: by adapter, the name of the model that it works on, where that is not untuned.
    """
    files = {model.path: model.size_bytes for model in members.values()}
    weights = {model.path: model.size_bytes for model in members.values() if model.kind != "adapter"}
    own = untuned_of or {}
    models = [
        members[own.get(name, "untuned")] if model.kind == "adapter" else model for name, model in members.items()
    ]
    kv = sum(kv_bytes(model, ctx * sequences, kv_type) for model in models)
    return Memory(sum(files.values()), sum(weights.values()) if repack else 0, kv)


def kv_bytes(model: GGUFMetadata, tokens: int, kv_type: str = "f16") -> int:
    """Bytes that the KV cache of a model has for so many tokens. Recurrent layers are counted as if they attended."""
    per_block, block_bytes = BLOCKS[KV_TYPES[kv_type]]
    layers = _number(model, "block_count") or 0
    heads = model.fields.get(f"{model.architecture}.attention.head_count_kv") or _number(model, "attention.head_count")
    all_heads = sum(heads) if isinstance(heads, list) else (heads or 1) * layers
    cells = -(-tokens // CTX_MULTIPLE) * CTX_MULTIPLE
    return all_heads * sum(head_sizes(model)) * block_bytes * cells // per_block


def head_sizes(model: GGUFMetadata) -> tuple[int, int]:
    """How many numbers an attention head keeps for a token: of its key, and of its value."""
    width = (_number(model, "embedding_length") or 0) // (_number(model, "attention.head_count") or 1)
    return (
        _number(model, "attention.key_length") or width,
        _number(model, "attention.value_length") or width,
    )


def require_kv_type(kv_type: str, models: Iterable[GGUFMetadata]) -> None:
    """Raise OptionError where the heads of a model cannot be cut into the blocks of a quantized type."""
    per_block, _ = BLOCKS[KV_TYPES[kv_type]]
    for model in models:
        size = next((size for size in head_sizes(model) if size % per_block), None)
        if model.kind != "adapter" and size is not None:
            raise OptionError(
                f"a KV cache of type {kv_type} packs {per_block} numbers together, "
                f"but an attention head of {model.path.name} has {size}",
                hint="pass --kv-type f16",
            )


def _number(model: GGUFMetadata, key: str) -> int | None:
    """A field of the architecture; the largest where it is given layer by layer."""
    value = model.fields.get(f"{model.architecture}.{key}")
    return max(value) if isinstance(value, list) else value
