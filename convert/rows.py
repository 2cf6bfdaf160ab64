"""In which order rows of attention matrices stand: Hugging Face's, and llama.cpp's.

Both orders give the same model. Hugging Face's Llama rotates dimension i with i + d/2 of a head of size d, llama.cpp's
`llama` architecture rotates 2i with 2i + 1. Falcon's fused matrix holds, for each key head, its query heads, the key
and the value; llama.cpp wants all queries, all keys, all values.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def row_order(architecture: str, tensor: str, *, rows: int, heads: int, kv_heads: int) -> NDArray[np.intp] | None:
    """Which row of the checkpoint is each row of the GGUF tensor; None where the order is the same.

    architecture: as in `general.architecture`.  tensor: the GGUF name, of a weight or bias.  Biases, and the B of a
    LoRA, have the same order as the weight's rows.
    """
    part = tensor.rpartition(".")[0].rpartition(".")[2]
    if architecture == "llama" and part in ("attn_q", "attn_k"):
        return _interleaved(rows, heads if part == "attn_q" else kv_heads)
    if architecture == "falcon" and part == "attn_qkv":
        return _separated(rows, heads, kv_heads)
    return None


def _interleaved(rows: int, heads: int) -> NDArray[np.intp]:
    return np.arange(rows, dtype=np.intp).reshape(heads, 2, -1).swapaxes(1, 2).reshape(rows)


def _separated(rows: int, heads: int, kv_heads: int) -> NDArray[np.intp]:
    per = heads // kv_heads
    groups = np.arange(rows, dtype=np.intp).reshape(kv_heads, per + 2, -1)
    return np.concatenate([groups[:, :per].ravel(), groups[:, per].ravel(), groups[:, per + 1].ravel()])
