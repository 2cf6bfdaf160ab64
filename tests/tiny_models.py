"""Tiny models that run: random weights, a byte-level vocabulary, a chat template. Made in milliseconds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter, RopeScalingType
from gguf.quants import quantize

# Jinja drops a newline at the very end of a template, hence the last expression.
TEMPLATE = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    "{{ '<|im_start|>assistant\n' }}"
)
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
NORMAL, CONTROL, UNUSED = 1, 3, 5
WIDTH, HEADS, LAYERS, HIDDEN = 32, 2, 2, 64


def byte_tokens() -> list[str]:
    """The 256 characters that byte-level BPE stands in for bytes, as GPT-2's vocabulary does."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in plain]
    return [chr(byte) for byte in plain] + [chr(256 + i) for i in range(len(others))]


def write_tiny_model(
    path: Path,
    *,
    seed: int = 0,
    ctx: int = 256,
    padding: int = 0,
    sharpness: float = 4.0,
    end_token: str = "<|im_end|>",
    pre: str = "qwen2",
    template: str | None = TEMPLATE,
    inserted: str = "",
    quantization: str = "F32",
    long_rope: int = 0,
) -> Path:
    """A llama-architecture model with weights drawn by `seed`; `padding` unused tokens at the end of its vocabulary.

    sharpness scales the output layer, so that one token stands out and greedy choices are no near-ties.
    inserted: a token that shifts the ids of all after the special ones.  quantization: of matrices, as gguf names it.
    long_rope: tokens from which on LongRoPE's long factors count; 0 for none.
    """
    rng = np.random.default_rng(seed)
    shift = [inserted] if inserted else []
    tokens = [*SPECIAL, *shift, *byte_tokens(), "Ġt", *(f"<unused{i}>" for i in range(padding))]
    types = [CONTROL] * len(SPECIAL) + [NORMAL] * (257 + len(shift)) + [UNUSED] * padding
    kind = GGMLQuantizationType[quantization]
    writer = GGUFWriter(path, "llama")
    writer.add_name(f"tiny {seed}")
    writer.add_context_length(ctx)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(HIDDEN)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges(["Ġ t"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(tokens.index(end_token))
    writer.add_add_bos_token(False)
    if template is not None:
        writer.add_chat_template(template)

    def matrix(name: str, rows: int, columns: int, scale: float = 1.0) -> None:
        values = (rng.standard_normal((rows, columns)) * scale / columns**0.5).astype(np.float32)
        writer.add_tensor(name, quantize(values, kind), raw_dtype=kind)

    if long_rope:
        writer.add_rope_scaling_type(RopeScalingType.LONGROPE)
        writer.add_rope_scaling_orig_ctx_len(long_rope)
        for name, value in (("long", 3.0), ("short", 1.0)):
            writer.add_tensor(f"rope_factors_{name}.weight", np.full(WIDTH // HEADS // 2, value, np.float32))
    matrix("token_embd.weight", len(tokens), WIDTH, 3.0)
    matrix("output.weight", len(tokens), WIDTH, sharpness)
    writer.add_tensor("output_norm.weight", np.ones(WIDTH, np.float32))
    for layer in range(LAYERS):
        for name, rows, columns in (
            ("attn_q", WIDTH, WIDTH),
            ("attn_k", WIDTH, WIDTH),
            ("attn_v", WIDTH, WIDTH),
            ("attn_output", WIDTH, WIDTH),
            ("ffn_gate", HIDDEN, WIDTH),
            ("ffn_up", HIDDEN, WIDTH),
            ("ffn_down", WIDTH, HIDDEN),
        ):
            matrix(f"blk.{layer}.{name}.weight", rows, columns)
        for name in ("attn_norm", "ffn_norm"):
            writer.add_tensor(f"blk.{layer}.{name}.weight", np.ones(WIDTH, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def write_tiny_adapter(path: Path, *, seed: int = 0, rank: int = 2) -> Path:
    """A LoRA adapter with random weights on the first layer's attention of a tiny model."""
    rng = np.random.default_rng(seed)
    writer = GGUFWriter(path, "llama")
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", float(rank))
    for name in ("attn_q", "attn_v", "attn_output"):
        writer.add_tensor(f"blk.0.{name}.weight.lora_a", rng.standard_normal((rank, WIDTH)).astype(np.float32))
        writer.add_tensor(f"blk.0.{name}.weight.lora_b", rng.standard_normal((WIDTH, rank)).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
