"""Tiny GGUF files for tests: whole in their headers, far too small to run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from gguf import GGUFWriter

TOKENS = ("<unk>", "<s>", "</s>", "a", "b", "Ġthe", "Ġcat", "é")
NORMAL, CONTROL, UNUSED = 1, 3, 5
TEMPLATE = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{{ eos_token }}{% endfor %}<assistant>"


def write_model(
    path: Path,
    *,
    tokens: Sequence[str | bytes] | None = TOKENS,
    types: Sequence[int] | None = None,
    model: str = "gpt2",
    pre: str | None = "qwen2",
    architecture: str = "llama",
    kind: str | None = "model",
    name: str | None = "tiny",
    ctx: int | None = 64,
    special: Mapping[str, int] | None = None,
    template: str | None = TEMPLATE,
    merges: Sequence[str] = (),
    tensors: int = 2,
    extra: Mapping[str, int] | None = None,
    flags: Mapping[str, bool] | None = None,
    scores: Sequence[float] = (),
    halves: bool = False,
) -> Path:
    """Write a file of `tensors` tensors of 8 × 32 numbers each; what is None is left out."""
    writer = GGUFWriter(path, architecture)
    if kind is not None:
        writer.add_type(kind)
    if name is not None:
        writer.add_name(name)
    if ctx is not None:
        writer.add_context_length(ctx)
    if tokens is not None:
        writer.add_tokenizer_model(model)
        if pre is not None:
            writer.add_tokenizer_pre(pre)
        # The writer takes bytes for texts that are no UTF-8.
        writer.add_token_list([t if isinstance(t, bytes) else t.encode() for t in tokens])
        writer.add_token_types(list(types) if types is not None else [NORMAL] * len(tokens))
        if merges:
            writer.add_token_merges(list(merges))
        for role, index in (special or {"bos": 1, "eos": 2}).items():
            writer.add_uint32(f"tokenizer.ggml.{role}_token_id", index)
        if template is not None:
            writer.add_chat_template(template)
    for key, value in (extra or {}).items():
        writer.add_uint32(key, value)
    for key, flag in (flags or {}).items():
        writer.add_bool(key, flag)
    if scores:
        writer.add_token_scores(list(scores))
    for index in range(tensors):
        writer.add_tensor(f"blk.{index}.weight", np.full((8, 32), index, np.float16 if halves else np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def write_adapter(path: Path, *, architecture: str = "llama") -> Path:
    """Write a LoRA adapter, which has no vocabulary of its own."""
    return write_model(path, tokens=None, ctx=None, architecture=architecture, kind="adapter")
