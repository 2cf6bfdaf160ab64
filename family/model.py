"""The Llama architecture in PyTorch: RMSNorm, rotary positions in interleaved pairs, SwiGLU, tied embeddings.

Pairs are interleaved, (0, 1), (2, 3) …, because llama.cpp's `llama` architecture rotates them so: weights go into
GGUF as they are, without the permutation that Hugging Face checkpoints need.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

HEAD = 32
ROPE_BASE = 10_000.0
NORM_EPSILON = 1e-5
CONTEXT = 512


@dataclass(frozen=True, slots=True)
class Size:
    """One scale of the family. Query, key and value have `width / 32` heads each."""

    name: str
    width: int
    layers: int
    feed_forward: int
    vocabulary: int = 2048

    @property
    def heads(self) -> int:
        """Number of attention heads."""
        return self.width // HEAD


SIZES = {size.name: size for size in (Size("s", 64, 3, 64), Size("m", 96, 3, 128), Size("l", 128, 4, 256))}


@dataclass(slots=True)
class Cache:
    """Keys and values of one layer, (batch, heads, positions, 32), grown by every call."""

    key: Tensor | None = None
    value: Tensor | None = None

    def extend(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Appends and returns all keys and values so far."""
        if self.key is not None and self.value is not None:
            key, value = torch.cat((self.key, key), 2), torch.cat((self.value, value), 2)
        self.key, self.value = key, value
        return key, value

    def keep(self, rows: Tensor) -> None:
        """Drops the rows of the batch for which `rows` is False."""
        if self.key is not None and self.value is not None:
            self.key, self.value = self.key[rows], self.value[rows]


class Block(nn.Module):
    """Attention, then a gated feed-forward layer, each on a normalised copy of the residual stream."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        width, hidden = size.width, size.feed_forward
        self.heads = size.heads
        self.attention_norm = nn.Parameter(torch.ones(width))
        self.query_key_value = nn.Parameter(torch.randn(3, width, width) / math.sqrt(width))
        self.attention_out = nn.Parameter(torch.zeros(width, width))
        self.feed_forward_norm = nn.Parameter(torch.ones(width))
        self.gate_up = nn.Parameter(torch.randn(2, hidden, width) / math.sqrt(width))
        self.down = nn.Parameter(torch.zeros(width, hidden))

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, cache: Cache | None, mask: Tensor | None) -> Tensor:
        batch, length, width = x.shape
        normal = F.rms_norm(x, (width,), self.attention_norm, NORM_EPSILON)
        heads = F.linear(normal, self.query_key_value.view(3 * width, width)).view(batch, length, 3, self.heads, HEAD)
        query, key, value = heads.permute(2, 0, 3, 1, 4)
        query, key = rotate(query, cos, sin), rotate(key, cos, sin)
        if cache is not None:
            key, value = cache.extend(key, value)
        causal = mask is None and length > 1
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, is_causal=causal)
        x = x + F.linear(mixed.transpose(1, 2).reshape(batch, length, width), self.attention_out)
        normal = F.rms_norm(x, (width,), self.feed_forward_norm, NORM_EPSILON)
        gate, up = F.linear(normal, self.gate_up.view(-1, width)).chunk(2, -1)
        return x + F.linear(F.silu(gate) * up, self.down)


class Llama(nn.Module):
    """Token ids (batch, length) → logits (batch, length, vocabulary)."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.size = size
        self.embedding = nn.Parameter(torch.randn(size.vocabulary, size.width) * 0.02)
        self.blocks = nn.ModuleList(Block(size) for _ in range(size.layers))
        self.norm = nn.Parameter(torch.ones(size.width))
        angle = torch.arange(CONTEXT)[:, None] * ROPE_BASE ** (-torch.arange(0, HEAD, 2) / HEAD)
        self.register_buffer("cos", angle.cos(), persistent=False)
        self.register_buffer("sin", angle.sin(), persistent=False)

    def hidden(
        self, ids: Tensor, caches: list[Cache] | None = None, start: int = 0, mask: Tensor | None = None
    ) -> Tensor:
        """The normalised residual stream before the output matrix; `start` is the first token's position.

        `mask`, (batch, 1, length, all positions), replaces the causal mask: True where a position may look.
        """
        cos, sin = (table[start : start + ids.shape[1]] for table in (self.cos, self.sin))
        x = F.embedding(ids, self.embedding)
        for i, block in enumerate(self.blocks):
            x = block(x, cos, sin, caches[i] if caches else None, mask)
        return F.rms_norm(x, (self.size.width,), self.norm, NORM_EPSILON)

    def forward(
        self, ids: Tensor, caches: list[Cache] | None = None, start: int = 0, mask: Tensor | None = None
    ) -> Tensor:
        return F.linear(self.hidden(ids, caches, start, mask), self.embedding)

    def parameter_count(self) -> int:
        """Number of trained numbers; the tied embedding counts once."""
        return sum(p.numel() for p in self.parameters())


@torch.no_grad()
def start_with_copying(model: Llama, scale: float, loudness: float) -> None:
    """Sets two heads so that, before any training, they roughly form an induction circuit.

    Models this small seldom find by themselves how to carry a name from the question into the answer (Olsson et
    al., arXiv 2209.11895, describe the circuit). Head 0 of block 0 looks one position back and writes that token's
    vector into dimensions 32 to 63; head 0 of block 1 looks for positions whose preceding token is the current one,
    and adds the vector of the token found there. Training starts from this and may change all of it. `scale` is the
    deviation of the embeddings, `loudness` that of their dimensions from 64 on, relative to it: if these are loud, or
    all are small beside what the blocks soon write, the circuit of a wide model is lost in the first steps.
    """
    constant = 3 * scale
    embedding = model.embedding
    embedding.copy_(torch.randn_like(embedding) * scale)
    embedding[:, 0] = constant
    embedding[:, HEAD : 2 * HEAD] = 0
    embedding[:, 2 * HEAD :] *= loudness
    norm = embedding.square().mean(1).sqrt().mean().item()
    one_back, match = model.blocks[0], model.blocks[1]

    query, key, value = one_back.query_key_value[:, :HEAD]
    query[:, :], key[:, :], value[:, :] = 0, 0, 0
    strength = 6.0 * norm / constant
    for pair in range(4):
        turn = ROPE_BASE ** (-2 * pair / HEAD)
        query[2 * pair, 0] = strength
        key[2 * pair, 0], key[2 * pair + 1, 0] = strength * math.cos(turn), strength * math.sin(turn)
    value[:, :HEAD] = torch.eye(HEAD)
    value[0, 0] = 0
    one_back.attention_out[HEAD : 2 * HEAD, :HEAD] = torch.eye(HEAD) * norm

    query, key, value = match.query_key_value[:, :HEAD]
    query[:, :], key[:, :], value[:, :] = 0, 0, 0
    slow = range(12, HEAD)  # the rotary pairs that hardly turn over the length of a chat
    for i in slow:
        query[i, i] = key[i, HEAD + i] = 1.5
    value[:, :HEAD] = torch.eye(HEAD)
    value[0, 0] = 0
    match.attention_out[:HEAD, :HEAD] = torch.eye(HEAD) * norm * 2


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary position embedding (Su et al., arXiv 2104.09864) on interleaved pairs; x is (…, length, 32)."""
    even, odd = x[..., 0::2], x[..., 1::2]
    return torch.stack((even * cos - odd * sin, even * sin + odd * cos), -1).flatten(-2)
