"""Tiny random models of many architectures, in two sizes that share a vocabulary: `write_architecture`.

Layouts (keys, tensors, tokenizers) are those of the real series; sizes are not. Llama as such, with options that tests
of other things need, is in tiny_models.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from gguf import GGUFWriter
from numpy.typing import NDArray

from tests.tiny_models import SPECIAL, TEMPLATE, byte_tokens

NORMAL, UNKNOWN, CONTROL, BYTE = 1, 2, 3, 6
CTX = 256
SHARPNESS = 4.0  # of logits, so that greedy choices are no near-ties
# As Llama-2's own: no special token marks the roles, and spaces stand around what is said.
LLAMA_2_TEMPLATE = (
    "{% for m in messages %}{% if m.role == 'user' %}{{ bos_token + '[INST] ' + m.content + ' [/INST]' }}"
    "{% elif m.role == 'assistant' %}{{ ' ' + m.content + ' ' + eos_token }}"
    "{% else %}{{ raise_exception('no system message') }}{% endif %}{% endfor %}"
)
GEMMA_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{{ '<start_of_turn>' + ('model' if m.role == 'assistant' else m.role) "
    "+ '\n' + m.content + '<end_of_turn>\n' }}{% endfor %}{{ '<start_of_turn>model\n' }}"
)


@dataclass(frozen=True)
class Size:
    """Heads of 16, unless an architecture says otherwise."""

    width: int
    heads: int
    kv_heads: int
    layers: int
    hidden: int


SMALL, LARGE = Size(32, 2, 2, 2, 48), Size(64, 4, 2, 3, 96)


class Writer:
    """A GGUF file in the making, with its random numbers."""

    def __init__(self, path: Path, architecture: str, seed: int) -> None:
        self.file, self.architecture, self.rng = (
            GGUFWriter(path, architecture),
            architecture,
            np.random.default_rng(seed),
        )
        self.file.add_name(f"tiny {architecture} {seed}")

    def key(self, name: str, value: float | Sequence[int]) -> None:
        name = f"{self.architecture}.{name}"
        if isinstance(value, float):
            self.file.add_float32(name, value)
        elif isinstance(value, int):
            self.file.add_uint32(name, value)
        else:
            self.file.add_array(name, list(value))

    def matrix(self, name: str, *shape: int, scale: float = 1.0) -> None:
        """Shape as in NumPy: llama.cpp writes it the other way round."""
        self.add(name, self.rng.standard_normal(shape) * scale / shape[-1] ** 0.5)

    def vector(self, name: str, length: int, value: float = 1.0) -> None:
        self.add(name, value + 0.1 * self.rng.standard_normal(length))

    def add(self, name: str, values: NDArray[np.float64]) -> None:
        self.file.add_tensor(name, values.astype(np.float32))

    def close(self) -> None:
        self.file.write_header_to_file()
        self.file.write_kv_data_to_file()
        self.file.write_tensors_to_file()
        self.file.close()


Part = Callable[[Writer, Size], None]


@dataclass(frozen=True)
class Architecture:
    name: str  # as in general.architecture
    vocabulary: Callable[[Writer], int]
    body: Part
    large: Part | None = None  # body of the large model, where the series' layout changes with size
    large_name: str | None = None  # likewise its architecture
    layers: tuple[int, int] = (SMALL.layers, LARGE.layers)
    recurrent: bool = False  # holds states that cannot be cut back to an earlier token
    small_recurrent: bool | None = None  # likewise the small model, where it differs
    tied: bool = False  # no output layer of its own


def write_architecture(path: Path, series: str, *, seed: int = 0, large: bool = False) -> Path:
    """A model of a series in ARCHITECTURES. Models of one series share a vocabulary."""
    kind, size = ARCHITECTURES[series], LARGE if large else SMALL
    size = Size(size.width, size.heads, size.kv_heads, kind.layers[large], size.hidden)
    writer = Writer(path, (kind.large_name if large else None) or kind.name, seed)
    writer.key("context_length", CTX)
    writer.key("embedding_length", size.width)
    writer.key("block_count", size.layers)
    tokens = kind.vocabulary(writer)
    # A model whose embeddings are its output layer says the last token again, unless the layers add much more.
    writer.matrix("token_embd.weight", tokens, size.width, scale=0.3 if kind.tied else 3.0)
    if not kind.tied:
        writer.matrix("output.weight", tokens, size.width, scale=SHARPNESS)
    ((kind.large if large else None) or kind.body)(writer, size)
    writer.close()
    return path


def _vocabulary(writer: Writer, tokens: list[str], types: list[int], special: dict[str, int], template: str) -> int:
    writer.file.add_token_list(tokens)
    writer.file.add_token_types(types)
    for role, index in special.items():
        writer.file.add_uint32(f"tokenizer.ggml.{role}_token_id", index)
    writer.file.add_chat_template(template)
    return len(tokens)


def byte_level(pre: str) -> Callable[[Writer], int]:
    """BPE over bytes; `pre` says how text is cut before."""

    def write(writer: Writer) -> int:
        tokens = [*SPECIAL, *byte_tokens(), "Ġt", "he"]
        writer.file.add_tokenizer_model("gpt2")
        writer.file.add_tokenizer_pre(pre)
        writer.file.add_token_merges(["Ġ t", "h e"])
        writer.file.add_add_bos_token(False)
        types = [CONTROL] * len(SPECIAL) + [NORMAL] * (len(tokens) - len(SPECIAL))
        return _vocabulary(writer, tokens, types, {"bos": 0, "eos": 2}, TEMPLATE)

    return write


def sentence_piece(
    control: Sequence[str], special: dict[str, int], template: str, *, space: bool
) -> Callable[[Writer], int]:
    """Pieces with scores, and bytes for what no piece says. `space`: a space is put before every text."""

    def write(writer: Writer) -> int:
        pieces = ["▁t", "he", "▁the", "▁", *map(chr, range(33, 127)), "é"]
        tokens = [*control, *(f"<0x{byte:02X}>" for byte in range(256)), *pieces]
        types = [UNKNOWN if text == "<unk>" else CONTROL for text in control] + [BYTE] * 256 + [NORMAL] * len(pieces)
        writer.file.add_tokenizer_model("llama")
        writer.file.add_token_scores([0.0] * (len(control) + 256) + [-float(rank) for rank in range(len(pieces))])
        writer.file.add_add_bos_token(True)
        writer.file.add_add_space_prefix(space)
        return _vocabulary(writer, tokens, types, special, template)

    return write


def _attention_keys(writer: Writer, size: Size, *, head: int = 16, kv_heads: int | Sequence[int] | None = None) -> None:
    writer.key("feed_forward_length", size.hidden)
    writer.key("attention.head_count", size.heads)
    writer.key("attention.head_count_kv", size.kv_heads if kv_heads is None else kv_heads)
    writer.key("attention.layer_norm_rms_epsilon", 1e-5)
    writer.key("attention.key_length", head)
    writer.key("attention.value_length", head)
    writer.key("rope.dimension_count", head)


def _attention(
    writer: Writer, size: Size, block: str, *, head: int = 16, bias: bool = False, norms: bool = False
) -> None:
    for name, heads in (("attn_q", size.heads), ("attn_k", size.kv_heads), ("attn_v", size.kv_heads)):
        writer.matrix(f"{block}.{name}.weight", heads * head, size.width)
        if bias:
            writer.vector(f"{block}.{name}.bias", heads * head, 0.0)
    writer.matrix(f"{block}.attn_output.weight", size.width, size.heads * head)
    writer.vector(f"{block}.attn_norm.weight", size.width)
    if norms:
        writer.vector(f"{block}.attn_q_norm.weight", head)
        writer.vector(f"{block}.attn_k_norm.weight", head)


def _feed_forward(writer: Writer, size: Size, block: str, *, experts: int = 0) -> None:
    writer.vector(f"{block}.ffn_norm.weight", size.width)
    ending, front = ("_exps", (experts,)) if experts else ("", ())
    if experts:
        writer.matrix(f"{block}.ffn_gate_inp.weight", experts, size.width)
    writer.matrix(f"{block}.ffn_gate{ending}.weight", *front, size.hidden, size.width)
    writer.matrix(f"{block}.ffn_up{ending}.weight", *front, size.hidden, size.width)
    writer.matrix(f"{block}.ffn_down{ending}.weight", *front, size.width, size.hidden)


def transformer(
    *, head: int = 16, bias: bool = False, norms: bool = False, experts: int = 0, grouped: bool = True
) -> Part:
    """Llama and what came of it. `grouped`: the large model has fewer key heads than query heads."""

    def write(writer: Writer, size: Size) -> None:
        size = size if grouped else Size(size.width, size.heads, size.heads, size.layers, size.hidden)
        _attention_keys(writer, size, head=head)
        if experts:
            writer.key("expert_count", experts)
            writer.key("expert_used_count", 2)
            writer.key("expert_feed_forward_length", size.hidden)
        writer.vector("output_norm.weight", size.width)
        for layer in range(size.layers):
            _attention(writer, size, f"blk.{layer}", head=head, bias=bias, norms=norms)
            _feed_forward(writer, size, f"blk.{layer}", experts=experts)

    return write


def granite(*, hybrid: bool) -> Part:
    """Llama with scales; if hybrid, all layers but the second have a state (Mamba 2) and do not attend.

    The files of Granite 4's dense models tell the sizes of states too, that none of their layers has.
    """

    def write(writer: Writer, size: Size) -> None:
        inner, state, convolution, heads = 2 * size.width, 16, 4, 8
        attends = [not hybrid or layer == 1 for layer in range(size.layers)]
        _attention_keys(writer, size, kv_heads=[size.kv_heads * attend for attend in attends])
        scales = {"attention.scale": 0.25, "embedding_scale": 3.0, "residual_scale": 0.5, "logit_scale": 0.5}
        sizes = {"conv_kernel": convolution, "inner_size": inner, "state_size": state, "time_step_rank": heads}
        for name, scale in scales.items():
            writer.key(name, scale)
        for name, value in {**sizes, "group_count": 1}.items():
            writer.key(f"ssm.{name}", value)
        writer.vector("output_norm.weight", size.width)
        for layer, attend in enumerate(attends):
            block = f"blk.{layer}"
            if attend:
                _attention(writer, size, block)
            else:
                writer.vector(f"{block}.attn_norm.weight", size.width)
                writer.matrix(f"{block}.ssm_in.weight", 2 * inner + 2 * state + heads, size.width)
                writer.matrix(f"{block}.ssm_conv1d.weight", inner + 2 * state, convolution)
                writer.vector(f"{block}.ssm_conv1d.bias", inner + 2 * state, 0.0)
                writer.vector(f"{block}.ssm_dt.bias", heads, 0.0)
                writer.add(f"{block}.ssm_a", -np.exp(0.5 * writer.rng.standard_normal((heads, 1))))
                writer.add(f"{block}.ssm_d", np.ones((heads, 1)))
                writer.add(f"{block}.ssm_norm.weight", np.ones((1, inner)))
                writer.matrix(f"{block}.ssm_out.weight", size.width, inner)
            _feed_forward(writer, size, block)

    return write


def falcon(*, kv_heads: int, second_norm: bool) -> Part:
    """One matrix makes queries, keys and values; the large Falcon has more key heads and a second norm."""

    def write(writer: Writer, size: Size) -> None:
        _attention_keys(writer, size, kv_heads=kv_heads)
        writer.key("attention.layer_norm_epsilon", 1e-5)
        writer.vector("output_norm.weight", size.width, SHARPNESS / 0.3)
        writer.vector("output_norm.bias", size.width, 0.0)
        for layer in range(size.layers):
            block = f"blk.{layer}"
            for norm in ("attn_norm", "attn_norm_2")[: 1 + second_norm]:
                writer.vector(f"{block}.{norm}.weight", size.width)
                writer.vector(f"{block}.{norm}.bias", size.width, 0.0)
            writer.matrix(f"{block}.attn_qkv.weight", size.width + 2 * kv_heads * 16, size.width)
            writer.matrix(f"{block}.attn_output.weight", size.width, size.width)
            writer.matrix(f"{block}.ffn_up.weight", size.hidden, size.width)
            writer.matrix(f"{block}.ffn_down.weight", size.width, size.hidden)

    return write


def gemma3(writer: Writer, size: Size) -> None:
    """Five layers of six see a window only."""
    _attention_keys(writer, size)
    writer.key("attention.sliding_window", 32)
    writer.vector("output_norm.weight", size.width, SHARPNESS / 0.3)
    for layer in range(size.layers):
        _attention(writer, size, f"blk.{layer}", norms=True)
        _feed_forward(writer, size, f"blk.{layer}")
        writer.vector(f"blk.{layer}.post_attention_norm.weight", size.width)
        writer.vector(f"blk.{layer}.post_ffw_norm.weight", size.width)


def mamba(writer: Writer, size: Size) -> None:
    """No attention: a state per sequence, of one size however long the text."""
    inner, state, convolution, rank = 2 * size.width, 8, 4, 4
    for name, value in {
        "feed_forward_length": 0,
        "attention.head_count": 0,
        "ssm.conv_kernel": convolution,
        "ssm.inner_size": inner,
        "ssm.state_size": state,
        "ssm.time_step_rank": rank,
    }.items():
        writer.key(name, value)
    writer.key("attention.layer_norm_rms_epsilon", 1e-5)
    writer.vector("output_norm.weight", size.width)
    for layer in range(size.layers):
        block = f"blk.{layer}"
        writer.vector(f"{block}.attn_norm.weight", size.width)
        writer.matrix(f"{block}.ssm_in.weight", 2 * inner, size.width)
        writer.matrix(f"{block}.ssm_conv1d.weight", inner, convolution)
        writer.vector(f"{block}.ssm_conv1d.bias", inner, 0.0)
        writer.matrix(f"{block}.ssm_x.weight", rank + 2 * state, inner)
        writer.matrix(f"{block}.ssm_dt.weight", inner, rank)
        writer.vector(f"{block}.ssm_dt.bias", inner, 0.0)
        writer.add(f"{block}.ssm_a", -np.exp(0.5 * writer.rng.standard_normal((inner, state))))
        writer.vector(f"{block}.ssm_d", inner)
        writer.matrix(f"{block}.ssm_out.weight", size.width, inner)


def lfm2(writer: Writer, size: Size) -> None:
    """Short convolutions, with a state, in all layers but the second, which attends."""
    convolution = 3
    _attention_keys(writer, size, kv_heads=[size.kv_heads * (layer == 1) for layer in range(size.layers)])
    writer.key("shortconv.l_cache", convolution)
    writer.vector("token_embd_norm.weight", size.width)
    for layer in range(size.layers):
        block = f"blk.{layer}"
        if layer == 1:
            _attention(writer, size, block, norms=True)
        else:
            writer.vector(f"{block}.attn_norm.weight", size.width)
            writer.matrix(f"{block}.shortconv.in_proj.weight", 3 * size.width, size.width)
            writer.matrix(f"{block}.shortconv.conv.weight", size.width, convolution)
            writer.matrix(f"{block}.shortconv.out_proj.weight", size.width, size.width)
        _feed_forward(writer, size, block)


LLAMA_PIECES = sentence_piece(
    ("<unk>", "<s>", "</s>"), {"bos": 1, "eos": 2, "unknown": 0}, LLAMA_2_TEMPLATE, space=True
)
GEMMA_PIECES = sentence_piece(
    ("<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>"),
    {"bos": 2, "eos": 1, "unknown": 3, "padding": 0, "eot": 5},
    GEMMA_TEMPLATE,
    space=False,
)
ARCHITECTURES = {
    "Llama": Architecture("llama", LLAMA_PIECES, transformer(grouped=False)),
    "Llama-2": Architecture("llama", LLAMA_PIECES, transformer()),
    "Llama 3": Architecture("llama", byte_level("llama-bpe"), transformer()),
    "Falcon": Architecture(
        "falcon",
        byte_level("falcon"),
        falcon(kv_heads=1, second_norm=False),
        large=falcon(kv_heads=2, second_norm=True),
        tied=True,
    ),
    "Qwen2.5": Architecture("qwen2", byte_level("qwen2"), transformer(bias=True)),
    "Qwen3": Architecture("qwen3", byte_level("qwen2"), transformer(norms=True)),
    "Gemma 3": Architecture("gemma3", GEMMA_PIECES, gemma3, layers=(6, 7), tied=True),
    # Heads whose sizes do not add up to the width, as in Mistral NeMo.
    "Mistral": Architecture("llama", byte_level("tekken"), transformer(head=32)),
    "Granite 4": Architecture(
        "granite",
        byte_level("dbrx"),
        granite(hybrid=False),
        large=granite(hybrid=True),
        large_name="granitehybrid",
        recurrent=True,
        small_recurrent=False,
    ),
    "Qwen3 with experts": Architecture(
        "qwen3", byte_level("qwen2"), transformer(norms=True), transformer(norms=True, experts=4), large_name="qwen3moe"
    ),
    "Mamba": Architecture("mamba", byte_level("olmo"), mamba, recurrent=True),
    "LFM2": Architecture("lfm2", byte_level("llama-bpe"), lfm2, recurrent=True),
}
