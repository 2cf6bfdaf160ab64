"""Rotary positions: base frequency, and what stretches a model's context beyond its training."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from gguf import GGUFWriter, RopeScalingType
from numpy.typing import NDArray

from eft_gguf.errors import ModelFileError

from .checkpoint import OTHER_CONVERTER

DEFAULT_BASE = 10_000.0


def rope_parameters(config: Mapping[str, Any], layers: str = "full_attention") -> dict[str, Any]:
    """`rope_theta`, `rope_type` and what the type needs, whichever way a version of transformers has written them.

    layers: where layers of two kinds have parameters of their own, of which kind.
    """
    written = config.get("rope_parameters") or {}
    written = written.get(layers, written)
    if not written and layers != "full_attention":
        # Before version 5: Gemma 3's layers with a window, of which rope_scaling does not speak.
        written = {"rope_theta": config.get("rope_local_base_freq", DEFAULT_BASE)}
    elif not written:
        written = {"rope_theta": config.get("rope_theta", DEFAULT_BASE), **(config.get("rope_scaling") or {})}
    kind = written.get("rope_type", written.get("type", "default"))
    return {"rope_theta": DEFAULT_BASE, **written, "rope_type": kind}


def write_rope(writer: GGUFWriter, config: Mapping[str, Any], head_size: int) -> NDArray[np.float32] | None:
    """Write the keys; returns the divisors of the frequencies, (head_size / 2,), where there are some.

    Raises ModelFileError for what llama.cpp has no key for.
    """
    rope = rope_parameters(config)
    partial = rope.get("partial_rotary_factor", config.get("partial_rotary_factor", 1.0))
    if partial not in (None, 1, 1.0):
        raise ModelFileError(f"only {partial} of each head is rotated", hint=OTHER_CONVERTER)
    writer.add_rope_dimension_count(head_size)
    writer.add_rope_freq_base(float(rope["rope_theta"]))
    kind = rope["rope_type"]
    if kind in ("default", None):
        return None
    if kind == "llama3" and writer.arch != "llama":
        raise ModelFileError(
            f"positions are scaled as in Llama 3.1, which llama.cpp does in no model of architecture {writer.arch!r}",
            hint=OTHER_CONVERTER,
        )
    if kind == "llama3":
        return llama3_divisors(rope, head_size)
    if kind == "linear":
        writer.add_rope_scaling_type(RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(float(rope["factor"]))
        return None
    if kind == "yarn" and not {"mscale", "mscale_all_dim", "attention_factor"} & {k for k, v in rope.items() if v}:
        writer.add_rope_scaling_type(RopeScalingType.YARN)
        writer.add_rope_scaling_factor(float(rope["factor"]))
        trained = rope.get("original_max_position_embeddings") or config["max_position_embeddings"]
        writer.add_rope_scaling_orig_ctx_len(int(trained))
        if rope.get("beta_fast"):
            writer.add_rope_scaling_yarn_beta_fast(float(rope["beta_fast"]))
        if rope.get("beta_slow"):
            writer.add_rope_scaling_yarn_beta_slow(float(rope["beta_slow"]))
        return None
    raise ModelFileError(f"positions are scaled by {kind!r}, which is not known here", hint=OTHER_CONVERTER)


def llama3_divisors(rope: Mapping[str, Any], head_size: int) -> NDArray[np.float32]:
    """By how much each frequency is divided, as in Llama 3.1: slow ones by `factor`, fast ones not, with a smooth way
    between. Shape (head_size / 2,).
    """
    frequencies = float(rope["rope_theta"]) ** -(np.arange(0, head_size, 2, dtype=np.float64) / head_size)
    turns = float(rope["original_max_position_embeddings"]) * frequencies / (2 * math.pi)
    low, high = float(rope["low_freq_factor"]), float(rope["high_freq_factor"])
    smooth = np.clip((turns - low) / (high - low), 0.0, 1.0)
    return (1.0 / ((1.0 - smooth) / float(rope["factor"]) + smooth)).astype(np.float32)
