"""A proxy-tuning loop as one would write it with Hugging Face transformers, on the weights of the same GGUF files.

Weights are dequantized, an adapter is added to them. Three forwards a token with their caches, the logits combined as
tensors, the likeliest token taken. For files of the `qwen2` architecture, tied embeddings or not.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import gguf
import torch
from gguf.quants import dequantize
from transformers import DynamicCache, Qwen2Config, Qwen2ForCausalLM

from measure.plain_loops import Files, Reply, clock

ARCHITECTURE = "qwen2"
MODULES = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
OUTSIDE = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}


class TransformersLoop:
    """Base, untuned and tuned in memory at once, in `dtype`, on the CPU."""

    def __init__(self, files: Files, *, threads: int, ctx: int, dtype: str) -> None:
        torch.set_num_threads(threads)
        kind = getattr(torch, dtype)
        self._base, self._untuned = load(files.base, kind), load(files.untuned, kind)
        self._tuned = load(files.untuned, kind, files.tuned) if files.adapter else load(files.tuned, kind)

    @torch.inference_mode()
    def reply(self, prompt: Sequence[int], count: int) -> Reply:
        caches = [DynamicCache(), DynamicCache(), DynamicCache()]
        reply = Reply([self._next(prompt, caches)])
        for _ in range(count - 1):
            started = clock()
            reply.tokens.append(self._next(reply.tokens[-1:], caches))
            reply.seconds.append(clock() - started)
        return reply

    def _next(self, tokens: Sequence[int], caches: Sequence[DynamicCache]) -> int:
        ids = torch.tensor([list(tokens)])
        base, untuned, tuned = (
            model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1).logits[0, -1]
            for model, cache in zip((self._base, self._untuned, self._tuned), caches, strict=True)
        )
        width = min(len(base), len(untuned), len(tuned))
        return int((base[:width] + (tuned[:width] - untuned[:width])).argmax())


def load(path: Path, dtype: torch.dtype, adapter: Path | None = None) -> Qwen2ForCausalLM:
    """A GGUF file as a model of transformers. Raises ValueError for another architecture."""
    reader = gguf.GGUFReader(path)
    config = _config(reader)
    with torch.device("meta"):
        model = Qwen2ForCausalLM(config)
    deltas = {} if adapter is None else dict(_deltas(adapter))
    weights = {}
    for tensor in reader.tensors:
        values = torch.from_numpy(dequantize(tensor.data, tensor.tensor_type).copy())
        if tensor.name in deltas:
            values += deltas.pop(tensor.name)
        weights[parameter(tensor.name)] = values.to(dtype)
    if deltas:
        raise ValueError(f"{adapter}: no such tensors in {path.name}: {', '.join(deltas)}")
    if config.tie_word_embeddings:
        weights["lm_head.weight"] = weights["model.embed_tokens.weight"]
    model.load_state_dict(weights, strict=True, assign=True)
    # What is computed and not stored was made on the device "meta" as well: it is made anew.
    model.model.rotary_emb = type(model.model.rotary_emb)(config=config)
    return model.eval()


def parameter(name: str) -> str:
    """The name that transformers has for a tensor: "blk.3.attn_q.weight" → "model.layers.3.self_attn.q_proj.weight"."""
    stem, _, kind = name.rpartition(".")
    if stem in OUTSIDE:
        return f"{OUTSIDE[stem]}.{kind}"
    _, layer, module = stem.split(".")
    return f"model.layers.{layer}.{MODULES[module]}.{kind}"


def _config(reader: gguf.GGUFReader) -> Qwen2Config:
    values = _Fields(reader)
    if values["general.architecture"] != ARCHITECTURE:
        raise ValueError(f"the transformers loop is for {ARCHITECTURE}, not {values['general.architecture']}")
    names = {tensor.name: tensor for tensor in reader.tensors}
    of = f"{ARCHITECTURE}."
    return Qwen2Config(
        vocab_size=int(names["token_embd.weight"].shape[1]),
        hidden_size=values[of + "embedding_length"],
        intermediate_size=values[of + "feed_forward_length"],
        num_hidden_layers=values[of + "block_count"],
        num_attention_heads=values[of + "attention.head_count"],
        num_key_value_heads=values[of + "attention.head_count_kv"],
        max_position_embeddings=values[of + "context_length"],
        rms_norm_eps=values[of + "attention.layer_norm_rms_epsilon"],
        rope_theta=values[of + "rope.freq_base"],
        tie_word_embeddings="output.weight" not in names,
    )


def _deltas(path: Path) -> Iterator[tuple[str, torch.Tensor]]:
    """What an adapter adds to each weight, by its name: alpha ÷ rank · B · A."""
    reader = gguf.GGUFReader(path)
    tensors = {tensor.name: torch.from_numpy(dequantize(tensor.data, tensor.tensor_type)) for tensor in reader.tensors}
    alpha = _Fields(reader)["adapter.lora.alpha"]
    for name, a in tensors.items():
        if name.endswith(".lora_a"):
            weight = name.removesuffix(".lora_a")
            yield weight, alpha / len(a) * (tensors[weight + ".lora_b"] @ a)


class _Fields(Mapping[str, Any]):
    """The metadata of a file as plain values."""

    def __init__(self, reader: gguf.GGUFReader) -> None:
        self._fields = reader.fields

    def __getitem__(self, key: str) -> Any:
        return self._fields[key].contents()

    def __iter__(self) -> Iterator[str]:
        return iter(self._fields)

    def __len__(self) -> int:
        return len(self._fields)
