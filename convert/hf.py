"""A Hugging Face checkpoint → a GGUF model, tensor by tensor."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter, LlamaFileType
from numpy.typing import NDArray

from eft_gguf.engine.llama import Model
from eft_gguf.errors import ModelFileError, OptionError
from eft_gguf.models.metadata import CONTROL

from .architectures import (
    Layout,
    divisors,
    heads_of,
    layers_of,
    layout_of,
    tensor_names,
)
from .check import TEXTS, differing_texts, require_computing
from .checkpoint import DTYPES, FETCH_AGAIN, OTHER_CONVERTER, Checkpoint, Stored, widened
from .rows import row_order
from .special import end_ids, write_special
from .vocabulary import Vocabulary, chat_template, read_vocabulary
from .writing import PlannedTensor, Progress, planned, silent, write_gguf, written_aside

KINDS = {"f32": GGMLQuantizationType.F32, "f16": GGMLQuantizationType.F16, "bf16": GGMLQuantizationType.BF16}
FILE_TYPES = {
    "f32": LlamaFileType.ALL_F32,
    "f16": LlamaFileType.MOSTLY_F16,
    "bf16": LlamaFileType.MOSTLY_BF16,
}
LARGEST_F16 = 65_504.0
# Computed by transformers from the configuration; not weights.
IGNORED = (".rotary_emb.inv_freq", ".attn.bias", ".masked_bias")
OTHER_SENSES = ("vision_tower.", "multi_modal_projector.", "model.vision_tower.", "model.multi_modal_projector.")


@dataclass
class Converted:
    """What was made. texts_cut_otherwise: of those tried, None where the checkpoint's tokenizer could not be asked."""

    path: str
    architecture: str
    dtype: str
    tensors: int
    parameters: int
    size_bytes: int
    vocabulary: int
    pre_tokenizer: str
    chat_template: bool
    texts_tried: int
    texts_cut_otherwise: list[str] | None
    notes: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def convert_checkpoint(
    folder: Path, output: Path, *, dtype: str = "auto", force: bool = False, progress: Progress = silent
) -> Converted:
    """Convert the model in `folder`.

    dtype: of matrices, "f32", "f16", "bf16", or "auto" for what the checkpoint has. Vectors are always F32.
    Raises ModelFileError for what is missing, damaged or not known, OptionError for an output that cannot
    be, LoadError.
    """
    if dtype not in ("auto", *KINDS):
        raise OptionError(f"the type is {dtype!r}", hint=f"it must be auto, {', '.join(KINDS)}")
    checkpoint = Checkpoint(folder)
    layout, checkpoint.config = layout_of(checkpoint.config)
    named = _named(checkpoint, layout)
    dtype = _most(named) if dtype == "auto" else dtype
    vocabulary = read_vocabulary(folder, named["token_embd.weight"].shape[0])
    template = chat_template(folder)
    tensors = list(_planned(checkpoint, layout, named, dtype))
    with written_aside(output, force=force, sources=sorted({stored.file for stored in named.values()})) as aside:
        write_gguf(aside, _writer(checkpoint, layout, vocabulary, template, dtype), tensors, progress=progress)
        progress("checking what was written", 1.0)
        require_computing(aside)
        with closing(Model(aside, vocab_only=True)) as model:
            differing = differing_texts(model, folder)
            silent_ends = [
                vocabulary.tokens[index]
                for index in end_ids(folder, checkpoint.config, len(vocabulary.tokens))
                if not model.is_end(index)
            ]
    return Converted(
        path=str(output),
        architecture=layout.name,
        dtype=dtype,
        tensors=len(tensors),
        parameters=sum(int(np.prod(tensor.shape)) for tensor in tensors),
        size_bytes=output.stat().st_size,
        vocabulary=len(vocabulary.tokens),
        pre_tokenizer=vocabulary.pre,
        chat_template=template is not None,
        texts_tried=len(TEXTS),
        texts_cut_otherwise=differing,
        notes=_notes(checkpoint, vocabulary, template is not None, differing, silent_ends),
    )


def _named(checkpoint: Checkpoint, layout: Layout) -> dict[str, Stored]:
    """The checkpoint's tensors by their GGUF names. Raises ModelFileError for what is too much, or too little."""
    config, rename = checkpoint.config, tensor_names(layout.name, layers_of(checkpoint.config))
    found: dict[str, Stored] = {}
    for name, stored in checkpoint.tensors.items():
        if name.endswith(IGNORED) or name.startswith(OTHER_SENSES):
            continue
        renamed = rename(name)
        if renamed is None:
            raise ModelFileError(f"the checkpoint's tensor {name} is not known here", hint=OTHER_CONVERTER)
        if stored.dtype not in DTYPES:
            raise ModelFileError(
                f"the tensor {name} has numbers of type {stored.dtype}; F32, F16 and BF16 can be converted",
                hint="convert the original checkpoint, not a quantized one",
            )
        if renamed == "output.weight" and config.get("tie_word_embeddings", layout.name in ("gemma3", "falcon")):
            continue  # the embedding, once more
        found[renamed] = stored
    layers = layers_of(config)
    parts = {name.split(".", 2)[2] for name in found if name.startswith("blk.0.")}
    wanted = {"token_embd.weight", "output_norm.weight", *(f"blk.{i}.{part}" for i in range(layers) for part in parts)}
    if not config.get("tie_word_embeddings", layout.name in ("gemma3", "falcon")):
        wanted.add("output.weight")
    missing = sorted(wanted - found.keys())
    if missing or not parts:
        what = missing[0] if missing else "blk.0"
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise ModelFileError(f"the checkpoint lacks weights: {what}{more}", hint=FETCH_AGAIN)
    return found


def _most(named: dict[str, Stored]) -> str:
    """The type that most numbers have."""
    count: dict[str, int] = {}
    for stored in named.values():
        count[stored.dtype] = count.get(stored.dtype, 0) + int(np.prod(stored.shape))
    return max(count, key=lambda name: count[name]).lower()


def _planned(checkpoint: Checkpoint, layout: Layout, named: dict[str, Stored], dtype: str) -> Iterator[PlannedTensor]:
    heads, kv_heads = heads_of(checkpoint.config)
    for name, stored in named.items():
        rows = stored.shape[0]
        order = row_order(layout.name, name, rows=rows, heads=heads, kv_heads=kv_heads)
        vector = len(stored.shape) < 2
        kind = "f32" if vector else dtype
        added = layout.added_to_norms if vector and name.endswith("norm.weight") else 0.0

        def blocks(
            stored: Stored = stored,
            order: NDArray[np.intp] | None = order,
            kind: str = kind,
            added: float = added,
            name: str = name,
        ) -> Iterator[NDArray[Any]]:
            for part in stored.chunks(order):
                made = _as(kind, part, stored.dtype, name)
                yield made + np.float32(added) if added else made

        yield PlannedTensor(name, stored.shape, KINDS[kind], blocks)
    if layout.name == "llama":
        factors = divisors(checkpoint.config)
        if factors is not None:
            yield planned("rope_freqs.weight", factors)


def _as(kind: str, stored: NDArray[Any], dtype: str, name: str) -> NDArray[Any]:
    """Numbers as they lie in the checkpoint → as they are to lie in the file."""
    if kind == dtype.lower():
        return stored
    wide = widened(stored, dtype)
    if kind == "f32":
        return wide
    if kind == "f16":
        largest = float(np.abs(wide).max(initial=0.0))
        if largest > LARGEST_F16:
            raise ModelFileError(
                f"{name} has a weight of {largest:.3g}, F16 ends at {LARGEST_F16:,.0f}", hint="pass --dtype bf16"
            )
        return wide.astype(np.float16)
    # To the nearest, ties to even, as llama.cpp rounds.
    bits = wide.view(np.uint32)
    return np.asarray((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16, np.uint16)


def _writer(
    checkpoint: Checkpoint,
    layout: Layout,
    vocabulary: Vocabulary,
    template: str | list[dict[str, str]] | None,
    dtype: str,
) -> GGUFWriter:
    writer = GGUFWriter(None, layout.name)
    writer.add_type("model")
    writer.add_name(checkpoint.folder.resolve().name)
    writer.add_file_type(FILE_TYPES[dtype])
    writer.add_vocab_size(len(vocabulary.tokens))
    layout.write(writer, checkpoint.config)
    vocabulary.write(writer)
    write_special(writer, checkpoint.folder, checkpoint.config, vocabulary)
    if template is not None:
        writer.add_chat_template(template)
    return writer


def _notes(
    checkpoint: Checkpoint, vocabulary: Vocabulary, template: bool, differing: list[str] | None, silent_ends: list[str]
) -> list[str]:
    notes = []
    if differing is None:
        notes.append("how text is cut was not compared: pip install 'eft-gguf[convert]' for that")
    elif differing:
        notes.append(
            f"llama.cpp cuts {len(differing)} of {len(TEXTS)} difficult texts otherwise than the checkpoint's own "
            f"tokenizer, for example {differing[0][:40]!r}"
        )
    if vocabulary.normalization:
        notes.append(
            f"the checkpoint's tokenizer first changes text ({vocabulary.normalization}), which llama.cpp does not: "
            "letters written with separate accents are cut otherwise"
        )
    if vocabulary.left_out:
        named = ", ".join(vocabulary.left_out[:3])
        notes.append(f"{len(vocabulary.left_out)} tokens have no row in the embedding and are left out: {named}")
    unseen = [
        token
        for token, kind in zip(vocabulary.tokens, vocabulary.types, strict=True)
        if kind == CONTROL and not token.startswith(("<", "["))
    ]
    if unseen:
        named = ", ".join(repr(token[:40]) for token in unseen[:3])
        notes.append(
            f"{len(unseen)} added token(s) are marked special, and are therefore neither drawn nor shown: {named}; "
            "if they are text, add them with special=False"
        )
    if not template:
        notes.append("there is no chat template: complete plain text (eft-gguf run --raw)")
    if silent_ends:
        notes.append(f"llama.cpp does not take {', '.join(map(repr, silent_ends))} for an end")
    if checkpoint.config.get("model_type") == "mistral" and checkpoint.config.get("sliding_window"):
        window = checkpoint.config["sliding_window"]
        notes.append(
            f"the model was trained to see {window:,} tokens back; llama.cpp lets it see all: keep --ctx below"
        )
    if any(name.startswith(OTHER_SENSES) for name in checkpoint.tensors):
        notes.append("only the language model was converted, not what sees images")
    return notes
