"""Adapters that `mlx_lm.lora` writes, read as pairs of matrices in PEFT's order.

A layer of mlx-lm computes y = W x + scale · (x A) B, with A of shape (columns, rank) and B of shape (rank, rows): both
lie the other way round than PEFT's (mlx_lm/tuner/lora.py, `LoRALinear`). `scale` is the whole factor; the rank does not
divide it.
`num_layers` counts from the last layer; 0 and less mean all. Names in the file count from the first.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from eft_gguf.errors import CompatibilityError, ModelFileError

from .adapter import Pair
from .checkpoint import DTYPES, Stored, read_json, read_safetensors, widened

WEIGHTS = "adapters.safetensors"
NAME = re.compile(r"(?P<module>.+)\.lora_(?P<half>[ab])")
LAYER = re.compile(r"(?:^|.*\.)layers\.(?P<number>\d+)\.(?P<rest>.+)")
FUSE = "merge it (mlx_lm.fuse --dequantize) and: eft-gguf convert hf, convert delta"
SAVE_AGAIN = "train again with mlx_lm.lora, or give the folder as it was written"


def is_mlx(folder: Path, config: Mapping[str, Any]) -> bool:
    """Whether mlx_lm wrote this folder, by its configuration and by the name of the weights' file."""
    return "peft_type" not in config and ("lora_parameters" in config or (folder / WEIGHTS).exists())


def mlx_pairs(folder: Path, config: Mapping[str, Any], blocks: int) -> dict[str, Pair]:
    """The matrices of each adapted module, for a model of `blocks` layers.

    Raises ModelFileError for a damaged folder and for what llama.cpp cannot express, CompatibilityError for an adapter
    of a model with another number of layers.
    """
    _refuse_inexpressible(config)
    rank, scale = _parameters(config)
    if not (folder / WEIGHTS).exists():
        raise ModelFileError(f"there is no {WEIGHTS} in {folder}", hint=SAVE_AGAIN)
    halves: dict[str, dict[str, Stored]] = {}
    for name, stored in read_safetensors(folder / WEIGHTS).items():
        if name.endswith(".m"):
            raise ModelFileError(f"the adapter holds {name}, which only DoRA has", hint=_without("DoRA"))
        found = NAME.fullmatch(name)
        if found is None:
            raise ModelFileError(f"the adapter holds more than A and B of layers: {name}", hint=FUSE)
        if stored.dtype not in DTYPES:
            raise ModelFileError(f"{name} has numbers of type {stored.dtype}", hint="save it as F32, F16 or BF16")
        halves.setdefault(found["module"], {})[found["half"]] = stored
    if not halves:
        raise ModelFileError("the adapter holds no weights", hint="was it trained, and saved after its training?")
    for module in halves:
        _require_adapted(module, config, blocks)
    return {module: _pair(module, pair, rank, scale) for module, pair in halves.items()}


def mlx_notes(config: Mapping[str, Any]) -> list[str]:
    """What to know about the adapter beside its numbers."""
    notes = []
    if bits := _quantized(str(config.get("model", ""))):
        notes.append(
            f"it was trained on {config['model']}, a base quantized to {bits} bits by MLX: on the untuned GGUF, whose "
            "weights are rounded in another way, its replies differ a little from those on the Mac"
        )
    if "alpha" in config.get("lora_parameters", {}):
        notes.append("lora_parameters has an alpha, which mlx_lm does not use today; old versions multiplied by it")
    return notes


def _refuse_inexpressible(config: Mapping[str, Any]) -> None:
    kind = config.get("fine_tune_type", "lora")
    if kind == "dora" or config.get("use_dora"):
        raise ModelFileError(
            "the adapter was trained as DoRA, which scales whole rows of the merged weights: A and B cannot say it",
            hint=_without("DoRA"),
        )
    if kind == "full":
        raise ModelFileError("the folder holds a full fine-tuning (fine_tune_type: full), no adapter", hint=FUSE)
    if kind != "lora":
        raise ModelFileError(f"the adapter has the unknown fine_tune_type {kind!r}", hint=SAVE_AGAIN)


def _without(kind: str) -> str:
    return f"train without {kind} (--fine-tune-type lora), or {FUSE}"


def _parameters(config: Mapping[str, Any]) -> tuple[int, float]:
    """Rank and scale."""
    table = config.get("lora_parameters")
    table = table if isinstance(table, dict) else {}
    rank, scale = table.get("rank"), table.get("scale")
    if isinstance(rank, bool) or not isinstance(rank, int) or rank < 1:
        raise ModelFileError(f"adapter_config.json has no usable lora_parameters.rank: {rank!r}", hint=SAVE_AGAIN)
    if isinstance(scale, bool) or not isinstance(scale, int | float) or not math.isfinite(scale) or scale == 0:
        raise ModelFileError(f"adapter_config.json has no usable lora_parameters.scale: {scale!r}", hint=SAVE_AGAIN)
    return rank, float(scale)


def _require_adapted(module: str, config: Mapping[str, Any], blocks: int) -> None:
    """Raise unless mlx_lm would put this module's adapter to use: it ignores weights of layers it does not adapt."""
    layer = LAYER.fullmatch(module)
    keys = config["lora_parameters"].get("keys")
    if keys is not None and module not in keys and (layer is None or layer["rest"] not in keys):
        raise ModelFileError(f"the adapter holds {module}, which lora_parameters.keys does not name", hint=SAVE_AGAIN)
    # Before December 2024 the key was called lora_layers.
    count = config.get("num_layers", config.get("lora_layers", -1))
    if isinstance(count, bool) or not isinstance(count, int):
        raise ModelFileError(f"adapter_config.json has no usable num_layers: {count!r}", hint=SAVE_AGAIN)
    if layer is not None and count > 0 and not blocks - count <= int(layer["number"]) < blocks:
        raise CompatibilityError(
            f"the adapter changes layer {int(layer['number'])}, which is not among the last {count} (num_layers) "
            f"of the {blocks} that the untuned model has",
            hint="give as --untuned the model that the adapter was trained on",
        )


def _pair(module: str, halves: Mapping[str, Stored], rank: int, scale: float) -> Pair:
    if set(halves) != {"a", "b"}:
        raise ModelFileError(f"{module} has only one of lora_a and lora_b", hint=SAVE_AGAIN)
    a, b = halves["a"], halves["b"]
    if len(a.shape) != 2 or len(b.shape) != 2 or a.shape[1] != rank or b.shape[0] != rank:
        raise ModelFileError(
            f"{module} has a lora_a of {a.shape} and a lora_b of {b.shape}; with rank {rank} they are "
            f"(columns, {rank}) and ({rank}, rows)",
            hint=SAVE_AGAIN,
        )
    first, second = (np.ascontiguousarray(widened(half.rows(0, half.shape[0]), half.dtype).T) for half in (a, b))
    return Pair(first, second, scale)


def _quantized(model: str) -> str | None:
    """The bits of a base that MLX has quantized, by its configuration where it is a folder here, else by its name."""
    config = Path(model).expanduser() / "config.json" if model else None
    if config and config.is_file():
        table = read_json(config, hint=SAVE_AGAIN).get("quantization")
        return str(table.get("bits", "fewer")) if isinstance(table, dict) else None
    named = re.search(r"[-_](\d)bit\b", model)
    return named[1] if named else None
