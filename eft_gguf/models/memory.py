"""What models need of memory, from their files alone, before any is loaded."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass

from eft_gguf.models.cache import head_sizes, kv_bytes, number, state_bytes
from eft_gguf.models.metadata import GGUFMetadata

PROGRAM = 195_000_000
"""Bytes of Python, NumPy, Numba with LLVM and llama.cpp's code, as measured (docs/benchmarks.md)."""
PER_TOKEN = 330
"""Bytes that llama.cpp's tables of the vocabulary take for each token and its merge, as measured."""
PER_CONTEXT = 3_000_000
"""Bytes that llama.cpp plans its computation in, as measured."""
OUTPUTS = 17
"""Rows of logits that a context has room for in any case: a token and 16 drafts after it."""
OUTPUTS_PER_SEQUENCE = 4
"""Rows for each of many sequences: a token and 3 drafts, for the more tokens a decode has, the less drafts pay."""


@dataclass(frozen=True, slots=True)
class Share:
    """Bytes of one member. weights: 0 where another member's are used; a repacked copy takes their place.

    cache: keys, values and states of what was read.  working: what a decode works in, logits, vocabulary.
    """

    weights: int
    cache: int
    working: int

    @property
    def total(self) -> int:
        """Bytes in all."""
        return self.weights + self.cache + self.working


@dataclass(frozen=True, slots=True)
class Memory:
    """What a family needs while it answers: its members' shares, and the program itself.

    files: bytes of the models on disk, each file once.
    """

    members: dict[str, Share]
    files: int
    program: int = PROGRAM

    @property
    def weights(self) -> int:
        """Bytes of weights in memory. Those not repacked are mapped: the system may drop and read them again."""
        return sum(share.weights for share in self.members.values())

    @property
    def kv(self) -> int:
        """Bytes of all caches."""
        return sum(share.cache for share in self.members.values())

    @property
    def working(self) -> int:
        """Bytes of compute buffers, logits and vocabularies."""
        return sum(share.working for share in self.members.values())

    @property
    def total(self) -> int:
        """Bytes in all."""
        return sum(share.total for share in self.members.values()) + self.program


def needed(
    members: Mapping[str, GGUFMetadata],
    *,
    ctx: int,
    sequences: int = 1,
    batch: int = 128,
    kv_type: str = "f16",
    flash_attention: bool = True,
    untuned_of: Mapping[str, str] | None = None,
    examples: int = 0,
) -> Memory:
    """What members (base, untuned, traits; adapters among them) need, each with a cache of its own.

    untuned_of: by trait, the name of its untuned model.  examples: tokens that base and the untuned models keep beside
    the conversations.
    """
    own = untuned_of or {}
    shares: dict[str, Share] = {}
    loaded = set()
    for name, member in members.items():
        model = members[own.get(name, "untuned")] if member.kind == "adapter" else member
        first = member.path not in loaded
        loaded.add(member.path)
        weights = weights_in_use(member) if first else 0
        kept = 0 if name in own else examples
        tokens = ctx * sequences + kept
        cache = kv_bytes(model, tokens, kv_type) + state_bytes(model, sequences + bool(kept))
        working = compute_bytes(model, ctx=tokens, batch=batch, sequences=sequences, flash=flash_attention)
        if first and member.vocabulary is not None:
            working += PER_TOKEN * member.vocabulary.size
        shares[name] = Share(weights, cache, working)
    return Memory(shares, sum({member.path: member.size_bytes for member in members.values()}.values()))


def weights_in_use(model: GGUFMetadata) -> int:
    """Bytes of the weights that decoding brings into memory.

    A token reads one row of the embedding table. Where the output layer has weights of its own, the rest of the table
    stays on disk (engine/mapping.py, on Linux).
    """
    unread = 0
    if sys.platform == "linux" and "output.weight" in model.tensors and "token_embd.weight" in model.tensors:
        unread = model.tensors["token_embd.weight"].size_bytes
    return sum(tensor.size_bytes for tensor in model.tensors.values()) - unread


def output_rows(sequences: int, batch: int) -> int:
    """Rows of logits that one decode can give, at most."""
    return min(batch, max(OUTPUTS_PER_SEQUENCE * sequences, OUTPUTS))


def compute_bytes(model: GGUFMetadata, *, ctx: int, batch: int, sequences: int = 1, flash: bool = True) -> int:
    """Bytes that a context works in: intermediate results of a layer, the mask, rows of logits.

    A layer holds three rows of its feed-forward width and four of the model's at once for each token of a batch, and
    the buffer is reused for the logits. That fits llama.cpp's reports for dense models to the byte.
    """
    batch = min(batch, ctx)
    width = number(model, "embedding_length") or 0
    experts = number(model, "expert_used_count") or 0
    expert_width = number(model, "expert_feed_forward_length") or 0
    # Heads may together be wider than the model, and Mamba's layers widen to twice the inner size.
    hidden = max(
        (number(model, "attention.head_count") or 0) * head_sizes(model)[0],
        number(model, "feed_forward_length") or 0,
        experts * (expert_width or number(model, "feed_forward_length") or 0),
        2 * (number(model, "ssm.inner_size") or 0),
    )
    tokens = model.vocabulary.size if model.vocabulary is not None else 0
    logits = 4 * tokens * output_rows(sequences, batch)
    layer = 4 * batch * (3 * hidden + 4 * width)
    mask = 2 * batch * ctx * (2 if number(model, "attention.sliding_window") else 1)
    # Without flash attention the scores of all heads are there at once, before and after they are normalized.
    scores = 0 if flash else 2 * 4 * batch * ctx * (number(model, "attention.head_count") or 0)
    return max(layer, logits, scores) + mask + logits + PER_CONTEXT
