"""Does it fit? The context that is asked for, what a family needs against what is free, and what to change if not."""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Sequence as Seq
from dataclasses import dataclass
from pathlib import Path

import psutil

from eft_gguf.errors import ContextError, LoadError
from eft_gguf.models.cache import CTX_MULTIPLE
from eft_gguf.models.memory import Memory, needed
from eft_gguf.models.metadata import GGUFMetadata

DEFAULT_CTX = 4096
"""Tokens of context where neither caller nor family says otherwise, if the models were trained for as many."""

BITS = {"Q8_0": 8.5, "Q6_K": 6.6, "Q5_K_M": 5.7, "Q4_K_M": 4.9, "Q3_K_M": 3.9, "Q2_K": 3.2}
"""Bits that a weight takes on average, over a whole model, in llama.cpp's usual mixtures."""

LEAST_CTX = 512
"""Tokens of context that are worth a change of quantization."""

GROUP = Path("/sys/fs/cgroup")
"""Where Linux says what a container may use."""


def context_length(asked: int | None, models: Seq[GGUFMetadata], *, default: int = DEFAULT_CTX) -> int:
    """Tokens of context: what is asked for, or `default` if all models were trained for as many.

    Raises ContextError where more is asked for than one was trained for.
    """
    trained = [(model.ctx_train, model.path.name) for model in models if model.ctx_train]
    shortest, name = min(trained, default=(default, ""))
    if asked is not None and trained and asked > shortest:
        raise ContextError(
            f"a context of {asked:,} tokens was asked for, but {name} was trained for {shortest:,}",
            hint=f"pass --ctx {shortest} or less",
        )
    return asked or min(default, shortest)


def free_memory() -> int:
    """Bytes that programs can still take without swapping, or what a container leaves of them."""
    free = int(psutil.virtual_memory().available)
    try:
        limit = int((GROUP / "memory.max").read_text())
        used = int((GROUP / "memory.current").read_text())
        cached = dict(line.split() for line in (GROUP / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):  # no container, or no limit: "max"
        return free
    # Files in memory count as used, and are dropped when the memory is wanted.
    return min(free, limit - used + int(cached.get("file", 0)))


@dataclass(frozen=True, slots=True)
class Plan:
    """A family and how it is to be used, but for the length of the context. The arguments are those of `needed`."""

    members: Mapping[str, GGUFMetadata]
    untuned_of: Mapping[str, str]
    sequences: int = 1
    batch: int = 128
    kv_type: str = "f16"
    flash_attention: bool = True
    examples: int = 0

    def at(self, ctx: int) -> Memory:
        """What is needed at a context of so many tokens."""
        return needed(
            self.members,
            ctx=ctx,
            sequences=self.sequences,
            batch=self.batch,
            kv_type=self.kv_type,
            flash_attention=self.flash_attention,
            untuned_of=self.untuned_of,
            examples=self.examples,
        )

    def require(self, ctx: int, free: int) -> None:
        """Raise LoadError, with what would fit, where more is needed than `free` bytes."""
        memory = self.at(ctx)
        if memory.total > free:
            raise LoadError(
                f"these models need {in_words(memory.total)} of memory at a context of {ctx:,} tokens"
                f"{f' and {self.examples:,} of examples' if self.examples else ''}, "
                f"and {in_words(free)} are free",
                hint="; ".join([*self.ways(ctx, free), "--force tries it all the same"]),
            )

    def ways(self, ctx: int, free: int) -> list[str]:
        """Changes, each of which would make it fit, as advice; two together where no single one would."""
        ways = []
        shorter = self.largest_ctx(ctx, free)
        if shorter:
            ways.append(f"pass --ctx {shorter}")
        found = self.smaller_quantization(ctx, free)
        if found is not None:
            ways.append("take {} at {} or smaller".format(*found))
        return ways or self._two_ways(ctx, free) or ["close other programs, or take smaller models"]

    def largest_ctx(self, most: int, free: int) -> int | None:
        """The longest context that fits, at most `most` tokens, in llama.cpp's steps; None if none does."""
        low, high = 0, most // CTX_MULTIPLE
        while low < high:
            middle = (low + high + 1) // 2
            if self.at(middle * CTX_MULTIPLE).total <= free:
                low = middle
            else:
                high = middle - 1
        return low * CTX_MULTIPLE or None

    def smaller_quantization(self, ctx: int, free: int) -> tuple[str, str] | None:
        """The member with most weights, and the best quantization of it that would make all fit; None if none would."""
        lacking = self.at(ctx).total - free
        name, savings = self._savings(ctx)
        return next(((name, quantization) for quantization, saved in savings.items() if saved >= lacking), None)

    def _two_ways(self, ctx: int, free: int) -> list[str]:
        name, savings = self._savings(ctx)
        for quantization, saved in savings.items():
            shorter = self.largest_ctx(ctx, free + saved)
            if shorter and shorter >= LEAST_CTX:
                return [f"take {name} at {quantization} or smaller and pass --ctx {shorter}"]
        return []

    def _savings(self, ctx: int) -> tuple[str, dict[str, int]]:
        """The member with most weights, and the bytes that each smaller quantization of it would save."""
        memory = self.at(ctx)
        name = max(memory.members, key=lambda name: memory.members[name].weights)
        model, share = self.members[name], memory.members[name]
        numbers = sum(tensor.elements for tensor in model.tensors.values())
        whole = sum(tensor.size_bytes for tensor in model.tensors.values())
        sizes = {quantization: int(numbers * bits / 8 * share.weights / whole) for quantization, bits in BITS.items()}
        saved = {quantization: share.weights - size for quantization, size in sizes.items()}
        return name, {quantization: size for quantization, size in saved.items() if size > 0}


def in_words(size: int) -> str:
    """Bytes as GB (10⁹), MB (10⁶) or kB (10³)."""
    if size >= 1e9:
        return f"{size / 1e9:,.1f} GB"
    return f"{size / 1e6:,.0f} MB" if size >= 1e6 else f"{size / 1e3:,.0f} kB"
