"""An adapter folder of PEFT or of mlx_lm → a GGUF adapter for llama.cpp."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from eft_gguf.errors import CompatibilityError, ModelFileError, OptionError
from eft_gguf.models.cache import number
from eft_gguf.models.header import TYPE_NAMES
from eft_gguf.models.metadata import GGUFMetadata
from eft_gguf.models.soundness import read_sound

from .adapter import Pair, common_alpha, write_adapter
from .architectures import LAYOUTS, tensor_names
from .check import require_computing
from .checkpoint import DTYPES, Stored, read_json, read_safetensors, widened
from .gguf_file import GGUFFile
from .mlx import WEIGHTS as MLX_WEIGHTS
from .mlx import is_mlx, mlx_notes, mlx_pairs
from .rows import row_order
from .writing import CHUNK, Progress, silent, written_aside

WEIGHTS = "adapter_model.safetensors"
TRAIN_AGAIN = (
    "train without it, or merge the adapter (model.merge_and_unload()) and: eft-gguf convert hf, convert delta"
)
# Layers that PEFT saves beside the adapter, as their size may have changed. Trained ones are in modules_to_save.
COPY = re.compile(r"(?:base_model\.model\.)?(?P<module>.+?)(?:\.base_layer)?\.weight")
NAME = re.compile(r"(?:base_model\.model\.)?(?P<module>.+)\.lora_(?P<half>[AB])(?:\.default)?\.weight")

REFUSED: dict[str, str] = {
    "use_dora": "DoRA scales whole columns of the merged weights, which A and B cannot say",
    "modules_to_save": "it holds whole layers that were trained beside A and B",
    "trainable_token_indices": "it holds trained rows of the embedding",
    "fan_in_fan_out": "its layers are stored the other way round",
    "lora_bias": "its B has a bias",
    "use_qalora": "QALoRA pools what A sees",
    "target_parameters": "it adapts parameters that are no layers",
    "alora_invocation_tokens": "an activated LoRA works from some token on only",
}
"""Keys of adapter_config.json → why llama.cpp cannot do it."""
# These take their start out of the weights they adapt, which are then no longer the untuned model's.
CHANGES_UNTUNED = ("pissa", "olora", "loftq", "corda", "lora_ga")
EXACT = 0.005
NOISE = {
    "F32": 0.0005, "F16": EXACT, "BF16": EXACT, "Q8": 0.009, "Q6": 0.03, "Q5": 0.05, "Q4": 0.1, "IQ4": 0.1,
}  # fmt: skip
"""By how much a quantized copy of a matrix differs from it, at most; of what is coarser, a fifth."""


@dataclass
class ConvertedAdapter:
    """What was made. ranks: how many modules have each rank."""

    path: str
    architecture: str
    modules: int
    alpha: float
    ranks: dict[str, int]
    size_bytes: int
    notes: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def convert_adapter(
    folder: Path, output: Path, untuned: Path, *, force: bool = False, progress: Progress = silent
) -> ConvertedAdapter:
    """Convert the adapter in `folder`, trained on the model that `untuned` (GGUF) was converted from.

    Raises ModelFileError for a damaged folder and for what llama.cpp cannot express, CompatibilityError for an adapter
    of another model, OptionError for an output that cannot be, LoadError.
    """
    config = read_json(
        folder / "adapter_config.json", hint="give the folder that PEFT's save_pretrained or mlx_lm.lora has written"
    )
    notes: list[str]
    if is_mlx(folder, config):
        metadata = read_sound(untuned)
        rename = _names(metadata)
        modules = mlx_pairs(folder, config, _number(metadata, "block_count"))
        weights, notes = folder / MLX_WEIGHTS, mlx_notes(config)
    else:
        _refuse_inexpressible(config)
        metadata = read_sound(untuned)
        rename = _names(metadata)
        weights, notes = folder / WEIGHTS, []
        modules = _peft_pairs(_weights(folder), config, rename, metadata, notes)
    pairs = dict(_placed(module, pair, rename(f"{module}.weight"), metadata) for module, pair in modules.items())
    sources = [weights, untuned]
    with written_aside(output, force=force, sources=sources) as aside:
        name = folder.resolve().name
        write_adapter(aside, metadata.architecture, name, pairs, half=False, progress=progress)
        progress("checking what was written", 1.0)
        require_computing(aside, untuned=untuned)
    ranks = sorted(pair.rank for pair in pairs.values())
    return ConvertedAdapter(
        path=str(output),
        architecture=metadata.architecture,
        modules=len(pairs),
        alpha=common_alpha(pairs),
        ranks={str(rank): ranks.count(rank) for rank in dict.fromkeys(ranks)},
        size_bytes=output.stat().st_size,
        notes=notes,
    )


def _refuse_inexpressible(config: Mapping[str, Any]) -> None:
    kind = config.get("peft_type")
    if kind != "LORA":
        raise ModelFileError(f"the adapter is of type {kind}; llama.cpp has LoRA only", hint=TRAIN_AGAIN)
    for key, reason in REFUSED.items():
        if config.get(key):
            raise ModelFileError(f"the adapter was trained with {key}: {reason}", hint=TRAIN_AGAIN)
    if config.get("bias", "none") != "none":
        raise ModelFileError("the adapter has trained biases, which A and B cannot say", hint=TRAIN_AGAIN)
    start = config.get("init_lora_weights")
    if isinstance(start, str) and start.startswith(CHANGES_UNTUNED):
        raise ModelFileError(
            f"the adapter was begun with {start}, which changes the weights it sits on",
            hint="save it with path_initial_model_for_weight_conversion=…, which makes a plain LoRA of it",
        )


def _weights(folder: Path) -> dict[str, Stored]:
    path = folder / WEIGHTS
    if path.exists():
        return read_safetensors(path)
    if (folder / "adapter_model.bin").exists():
        hint = "load it with PEFT and save it again: model.save_pretrained(FOLDER)"
        raise ModelFileError(f"{folder} holds weights as a .bin file, which can run code when read", hint=hint)
    raise ModelFileError(f"there is no {WEIGHTS} in {folder}", hint="give the folder that save_pretrained has written")


def _names(metadata: GGUFMetadata) -> Callable[[str], str | None]:
    """From a checkpoint's names of weights to GGUF's."""
    architecture = metadata.architecture
    if architecture not in {layout.name for layout in LAYOUTS.values()}:
        raise ModelFileError(
            f"adapters on models of architecture {architecture!r} are not known here",
            hint="convert it with llama.cpp's own converter: python convert_lora_to_gguf.py FOLDER --base CHECKPOINT",
        )
    return tensor_names(architecture, _number(metadata, "block_count"))


def _peft_pairs(
    weights: Mapping[str, Stored],
    config: Mapping[str, Any],
    rename: Callable[[str], str | None],
    metadata: GGUFMetadata,
    notes: list[str],
) -> dict[str, Pair]:
    """By module. notes: what was compared only roughly is added to them."""
    halves: dict[str, dict[str, Stored]] = {}
    for name, stored in weights.items():
        found = NAME.fullmatch(name)
        if stored.dtype not in DTYPES:
            raise ModelFileError(f"{name} has numbers of type {stored.dtype}", hint="save it as F32, F16 or BF16")
        if found is None:
            notes += _require_copy(name, stored, rename, metadata)
            continue
        halves.setdefault(found["module"], {})[found["half"]] = stored
    if not halves:
        raise ModelFileError("the adapter holds no weights", hint="was it trained, and saved after its training?")
    return {module: _pair(module, pair, config) for module, pair in halves.items()}


def _require_copy(name: str, stored: Stored, rename: Callable[[str], str | None], metadata: GGUFMetadata) -> list[str]:
    """Raise ModelFileError unless this is the untuned model's embedding or output layer, as it was; returns notes."""
    copied = COPY.fullmatch(name)
    renamed = rename(f"{copied['module']}.weight") if copied else None
    if renamed not in ("token_embd.weight", "output.weight"):
        raise ModelFileError(f"the adapter holds more than A and B of layers: {name}", hint=TRAIN_AGAIN)
    place = renamed if renamed in metadata.tensors else "token_embd.weight"
    original = metadata.tensors[place]
    if original.shape != stored.shape:
        raise ModelFileError(
            f"the adapter comes with {name} of another size than the untuned model's: tokens were added",
            hint=TRAIN_AGAIN,
        )
    file, square, all_of = GGUFFile(metadata.path), 0.0, 0.0
    step = max(1, CHUNK // (4 * stored.shape[1]))
    for start in range(0, stored.shape[0], step):
        stop = min(start + step, stored.shape[0])
        was = file.read(place, start, stop).astype(np.float64)
        now = widened(stored.rows(start, stop), stored.dtype)
        square += float(((now - was) ** 2).sum())
        all_of += float((was**2).sum())
    change = math.sqrt(square / all_of) if all_of else float(square > 0)
    kind = TYPE_NAMES.get(original.kind, "")
    most = next((noise for begin, noise in NOISE.items() if kind.startswith(begin)), 0.2)
    if not change <= most:
        raise ModelFileError(
            f"the adapter comes with {name}, which was trained: it differs from the untuned model's by {change:.2%}",
            hint=TRAIN_AGAIN,
        )
    if most <= EXACT:
        return []
    return [f"{name} comes with the adapter, and was taken for unchanged within what {kind} loses ({change:.2%})"]


def _pair(module: str, halves: Mapping[str, Stored], config: Mapping[str, Any]) -> Pair:
    if set(halves) != {"A", "B"}:
        raise ModelFileError(f"{module} has only one of A and B", hint="save the adapter again")
    if any(len(half.shape) != 2 for half in halves.values()):
        raise ModelFileError(f"{module} has an A or B that is no matrix", hint="save the adapter again")
    a, b = (widened(halves[half].rows(0, halves[half].shape[0]), halves[half].dtype) for half in "AB")
    if a.shape[0] != b.shape[1]:
        raise ModelFileError(f"{module} has an A of {a.shape} and a B of {b.shape}", hint="save the adapter again")
    return Pair(a, b, _scale(module, a.shape[0], config))


def _placed(module: str, pair: Pair, name: str | None, metadata: GGUFMetadata) -> tuple[str, Pair]:
    """The pair by the GGUF name of the weight that it adapts, its rows in GGUF's order."""
    if name is None or name == "token_embd.weight":
        raise ModelFileError(f"the adapter changes {module}, which llama.cpp adapts in no model", hint=TRAIN_AGAIN)
    if name not in metadata.tensors:
        tied = " (its output layer is its embedding)" if name == "output.weight" else ""
        raise CompatibilityError(
            f"the adapter changes {module}, and {metadata.path.name} has no {name}{tied}",
            hint=TRAIN_AGAIN if tied else "give as --untuned the model that the adapter was trained on",
        )
    a, b = pair.a, pair.b
    if metadata.tensors[name].elements != a.shape[1] * b.shape[0]:
        raise CompatibilityError(
            f"{module} is adapted as a layer of {a.shape[1]:,} → {b.shape[0]:,}, which {name} of {metadata.path.name} "
            f"({metadata.tensors[name].elements:,} numbers) is not",
            hint="give as --untuned the model that the adapter was trained on",
        )
    heads = _number(metadata, "attention.head_count")
    kv_heads = _number(metadata, "attention.head_count_kv", heads)
    order = row_order(metadata.architecture, name, rows=b.shape[0], heads=heads, kv_heads=kv_heads)
    return name, Pair(a, b if order is None else b[order], pair.scale)


def _scale(module: str, rank: int, config: Mapping[str, Any]) -> float:
    """What PEFT multiplies B A by: alpha / rank, or alpha / √rank with rank-stabilised LoRA (arXiv 2312.03732)."""
    alpha, own = config.get("lora_alpha"), config.get("alpha_pattern") or {}
    try:
        for pattern, other in own.items():
            if re.fullmatch(rf"(?:.*\.)?(?:{pattern})", module):
                alpha = other
                break
    except (re.error, AttributeError):
        raise ModelFileError(
            f"adapter_config.json has no usable alpha_pattern: {own!r:.60}", hint="save the adapter again"
        ) from None
    if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not math.isfinite(alpha) or alpha == 0:
        raise ModelFileError(
            f"adapter_config.json has no usable lora_alpha: {alpha!r:.60}", hint="save the adapter again"
        )
    return float(alpha) / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _number(metadata: GGUFMetadata, key: str, default: int | None = None) -> int:
    value = number(metadata, key)
    if value is None:
        value = default
    if value is None:
        raise OptionError(f"{metadata.path} has no usable {metadata.architecture}.{key}", hint="convert it again")
    return value
