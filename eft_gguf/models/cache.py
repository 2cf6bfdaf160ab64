"""What a model's context keeps of the tokens read: keys and values of attention, states of recurrent layers.

The layouts are llama.cpp's, read from the file's keys; tests hold them to the sizes that it reports.
"""

from __future__ import annotations

from collections.abc import Iterable

from eft_gguf.errors import OptionError
from eft_gguf.models.fields import MOST, MOST_LAYERS, whole_numbers
from eft_gguf.models.header import BLOCKS
from eft_gguf.models.metadata import GGUFMetadata

KV_TYPES = {"f32": 0, "f16": 1, "bf16": 30, "q8_0": 8, "q5_1": 7, "q5_0": 6, "q4_1": 3, "q4_0": 2, "iq4_nl": 20}
"""How cached numbers may be kept: llama.cpp's name → its number for the type. It aborts the process over others."""
PLAIN_KV_TYPES = ("f32", "f16", "bf16")

BOTH = ("falcon-h1",)
"""Architectures each of whose layers has a state and attends."""

CTX_MULTIPLE = 256
"""llama.cpp rounds the cells of a KV cache up to a multiple of this."""

NEITHER = ("mamba", "mamba2", "rwkv6", "rwkv7", "rwkv6qwen2", "arwkv7")
"""Architectures whose layers have a state and no attention."""


def kv_bytes(model: GGUFMetadata, tokens: int, kv_type: str = "f16") -> int:
    """Bytes that the KV cache of a model has for so many tokens.

    Layers that see a sliding window only are kept whole: a draft or a turn that is taken back could not be dropped
    otherwise.
    """
    per_block, block_bytes = BLOCKS[KV_TYPES[kv_type]]
    cells = -(-tokens // CTX_MULTIPLE) * CTX_MULTIPLE
    heads = sum(kv_heads(model))
    if number(model, "attention.kv_lora_rank") and number(model, "attention.key_length_mla"):
        # DeepSeek's latent attention: the values are a part of the keys.
        return heads * head_sizes(model)[0] * block_bytes * cells // per_block
    return heads * sum(head_sizes(model)) * block_bytes * cells // per_block


def kv_heads(model: GGUFMetadata) -> list[int]:
    """Key and value heads that each layer keeps; 0 for a layer that does not attend, or uses another one's."""
    layers = number(model, "block_count", most=MOST_LAYERS) or 0
    if model.architecture in NEITHER:
        return [0] * layers
    given = _numbers(model, "attention.head_count_kv") or _numbers(model, "attention.head_count") or [1]
    heads = given * layers if len(given) == 1 else given
    interval = number(model, "full_attention_interval") or 0
    if interval:
        heads = [count if (layer + 1) % interval == 0 else 0 for layer, count in enumerate(heads)]
    shared = number(model, "attention.shared_kv_layers") or 0
    return [count if layer < layers - shared else 0 for layer, count in enumerate(heads)]


def state_bytes(model: GGUFMetadata, sequences: int) -> int:
    """Bytes of the states of recurrent layers: the same however long the text, 4 a number, for each sequence."""
    attending = kv_heads(model)
    # In most hybrids layers take turns, in some each layer has both. Keys of states alone say nothing: files of dense
    # models from series with hybrids (Granite 4) have them too.
    layers = len(attending) if model.architecture in BOTH else attending.count(0)
    return 4 * layers * sequences * _state_numbers(model)


def is_recurrent(model: GGUFMetadata) -> bool:
    """Whether it has states, which cannot be cut back to an earlier token."""
    return state_bytes(model, 1) > 0


def _state_numbers(model: GGUFMetadata) -> int:
    """As llama.cpp's n_embd_r and n_embd_s: what the convolutions and what the states hold, in a layer."""
    width = number(model, "embedding_length") or 0
    if tokens := number(model, "shortconv.l_cache"):
        return width * (tokens - 1)
    if heads := number(model, "wkv.head_size"):
        shifted = number(model, "token_shift_count") or 2
        return width * (shifted + heads)
    if heads := number(model, "kda.head_dim"):
        kernel, count = number(model, "ssm.conv_kernel") or 1, number(model, "attention.head_count") or 1
        return 3 * (kernel - 1) * heads * count + heads * heads * count
    state, inner = number(model, "ssm.state_size") or 0, number(model, "ssm.inner_size") or 0
    kernel, groups = number(model, "ssm.conv_kernel") or 1, number(model, "ssm.group_count") or 0
    return (kernel - 1) * (inner + 2 * groups * state) + state * inner


def head_sizes(model: GGUFMetadata) -> tuple[int, int]:
    """How many numbers an attention head keeps for a token: of its key, and of its value."""
    width = (number(model, "embedding_length") or 0) // (number(model, "attention.head_count") or 1)
    return (
        number(model, "attention.key_length") or width,
        number(model, "attention.value_length") or width,
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


def number(model: GGUFMetadata, key: str, *, most: int = MOST) -> int | None:
    """A count of the architecture's; the largest where it is given layer by layer. Raises ModelFileError."""
    given = _numbers(model, key, most=most)
    return None if given is None else max(given)


def _numbers(model: GGUFMetadata, key: str, *, most: int = MOST) -> list[int] | None:
    return whole_numbers(model.path, model.fields, f"{model.architecture}.{key}", most=most)
