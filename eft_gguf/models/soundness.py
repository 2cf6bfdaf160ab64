"""What in a model file would end the process: llama.cpp checks some things by an assertion, others not at all.

All that is known is refused here before it gets there. What is not known, `engine/probe.py` finds out in a process of
its own.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import numpy.typing as npt

from eft_gguf.errors import ModelFileError
from eft_gguf.models.fields import CONVERT_AGAIN, MOST_LAYERS, refused, text, whole_number, whole_numbers
from eft_gguf.models.header import F32, STRING, TYPE_NAMES, StringArray
from eft_gguf.models.metadata import GGUFMetadata, read_metadata

ALIGNED = 32
"""Bytes that llama.cpp wants the tensors it maps to begin at a multiple of."""
MOST_EXPERTS = 512
ROPE_SCALING = ("none", "linear", "yarn", "longrope")
NUMBERS = (0, 1, 30)
"""F32, F16 and BF16: what vectors, which are added or multiplied number by number, may be of."""
NO_WEIGHTS = (9, 15, 24, 25, 26, 27, 28)
"""Types of intermediate results (Q8_1, Q8_K), whole numbers, and F64: llama.cpp multiplies no weights of them."""
OTHER_TYPES = {24: "I8", 25: "I16", 26: "I32", 27: "I64", 28: "F64"}
TABLES = ("tid2eid",)
"""Tensors of whole numbers that are looked up."""
ADAPTER_KINDS = {"general.type": STRING, "adapter.type": STRING, "adapter.lora.alpha": F32}
"""Keys that llama.cpp reads of an adapter without looking at their type."""
COUNTS = (
    "context_length", "embedding_length", "feed_forward_length", "attention.head_count", "attention.head_count_kv",
    "attention.key_length", "attention.value_length", "attention.key_length_mla", "attention.kv_lora_rank",
    "attention.sliding_window", "attention.shared_kv_layers", "expert_feed_forward_length", "full_attention_interval",
    "ssm.conv_kernel", "ssm.inner_size", "ssm.state_size", "ssm.group_count", "shortconv.l_cache", "wkv.head_size",
    "token_shift_count", "kda.head_dim",
)  # fmt: skip
EPSILONS = ("attention.layer_norm_rms_epsilon", "attention.layer_norm_epsilon")


def require_sound(model: GGUFMetadata) -> None:
    """Raise ModelFileError for what llama.cpp would end the process over, with the key and its value."""
    _require_whole_tensors(model)
    if model.kind == "adapter":
        _require_adapter(model)
        _require_weights(model)
        return
    _require_counts(model)
    _require_weights(model)


def read_sound(path: Path) -> GGUFMetadata:
    """A file's metadata, as `read_metadata` reads it. Raises ModelFileError as it and `require_sound` do."""
    model = read_metadata(path)
    require_sound(model)
    return model


def _require_adapter(model: GGUFMetadata) -> None:
    for key, kind in ADAPTER_KINDS.items():
        if model.kinds.get(key, kind) != kind:
            raise refused(
                model.path, key, model.fields.get(key), "a text" if kind == STRING else "a number of type F32"
            )
    if text(model.path, model.fields, "adapter.type") not in ("lora", None):
        raise refused(model.path, "adapter.type", model.fields["adapter.type"], "'lora'")
    alpha = model.fields.get("adapter.lora.alpha", 0.0)
    if not isinstance(alpha, float) or not math.isfinite(alpha):
        raise refused(model.path, "adapter.lora.alpha", alpha, "a number")


def _require_counts(model: GGUFMetadata) -> None:
    path, fields, prefix = model.path, model.fields, f"{model.architecture}."
    whole_number(path, fields, prefix + "block_count", least=1, most=MOST_LAYERS)
    for key in COUNTS:
        whole_numbers(path, fields, prefix + key)
    experts = whole_number(path, fields, prefix + "expert_count", most=MOST_EXPERTS) or 0
    used = whole_number(path, fields, prefix + "expert_used_count", most=MOST_EXPERTS) or 0
    if used > experts or (experts and not used):
        wanted = f"from 1 to {prefix}expert_count, {experts}" if experts else "left out, for there are no experts"
        raise refused(path, prefix + "expert_used_count", used, wanted)
    scaling = text(path, fields, prefix + "rope.scaling.type")
    if scaling not in (None, *ROPE_SCALING):
        raise refused(path, prefix + "rope.scaling.type", scaling, f"one of {', '.join(ROPE_SCALING)}")
    for key in EPSILONS:
        value = fields.get(prefix + key)
        if value is not None and (type(value) is not float or not math.isfinite(value) or value < 0):
            raise refused(path, prefix + key, value, "a small positive number")


def _require_whole_tensors(model: GGUFMetadata) -> None:
    """llama.cpp maps tensors where they lie."""
    for name, tensor in model.tensors.items():
        if tensor.start % ALIGNED:
            alignment = model.fields.get("general.alignment")
            raise ModelFileError(
                f"{model.path}: the tensor {name!r:.60} begins at byte {tensor.start:,}, which is no multiple of "
                f"{ALIGNED} (general.alignment is {alignment!r})",
                hint=CONVERT_AGAIN,
            )


def _require_weights(model: GGUFMetadata) -> None:
    for name, tensor in model.tensors.items():
        vector = len([length for length in tensor.shape if length != 1]) < 2
        looked_up = any(table in name for table in TABLES)
        added = vector and model.kind != "adapter"
        if looked_up or (tensor.kind in NUMBERS if added else tensor.kind not in NO_WEIGHTS):
            continue
        named = (TYPE_NAMES | OTHER_TYPES).get(tensor.kind, f"number {tensor.kind}")
        raise ModelFileError(
            f"{model.path}: the tensor {name!r:.60} is of type {named}, which llama.cpp cannot compute with",
            hint=CONVERT_AGAIN,
        )


def first_repeated(strings: StringArray) -> int | None:
    """Index of a string that an earlier one is equal to; None if all differ. 0.1 s at 152,000 tokens."""
    if len(strings) < 2:
        return None
    data = np.frombuffer(strings.blob, np.uint8)
    starts = strings.starts.astype(np.int32)
    lengths = np.append(starts[1:], np.int32(len(data))) - starts
    # A sum for each string of its bytes, the length before it among them, each times a number that its place gives.
    first: npt.NDArray[np.int32] = np.repeat(starts, lengths)
    place = np.arange(len(data), dtype=np.int32) - first
    factors = np.random.default_rng(1).integers(1, 2**32, int(lengths.max()), np.uint32)
    sums = np.add.reduceat(data.astype(np.uint32) * factors[place], starts)
    ordered = np.sort(sums)
    if not (ordered[1:] == ordered[:-1]).any():
        return None
    order = np.argsort(sums, kind="stable")
    alike = np.flatnonzero(sums[order[1:]] == sums[order[:-1]])
    pairs = ((int(order[at]), int(order[at + 1])) for at in alike)
    return next((second for first, second in pairs if strings[first] == strings[second]), None)
