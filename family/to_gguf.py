"""A trained model and its tokenizer as a GGUF file of the `llama` architecture, and the way back for checks."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from gguf import GGUFReader, GGUFWriter, LlamaFileType, TokenType
from tokenizers import Tokenizer

from family.model import CONTEXT, HEAD, NORM_EPSILON, ROPE_BASE, SIZES, Llama
from family.tokenizer import CHAT_TEMPLATE, END_OF_TEXT_ID, PRE_TOKENIZER, SPECIAL, TURN_END_ID

LICENSE = "cc-by-4.0"


def write(model: Llama, tokenizer: Tokenizer, path: Path, name: str, description: str) -> None:
    """Writes matrices as F16 and norms as F32. The output matrix is the embedding, so it is not written twice."""
    size = model.size
    writer = GGUFWriter(path, "llama")
    writer.add_type("model")
    writer.add_name(name)
    writer.add_description(description)
    writer.add_license(LICENSE)
    writer.add_file_type(LlamaFileType.MOSTLY_F16)
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(size.width)
    writer.add_block_count(size.layers)
    writer.add_feed_forward_length(size.feed_forward)
    writer.add_head_count(size.heads)
    writer.add_head_count_kv(size.heads)
    writer.add_rope_dimension_count(HEAD)
    writer.add_rope_freq_base(ROPE_BASE)
    writer.add_layer_norm_rms_eps(NORM_EPSILON)
    writer.add_vocab_size(size.vocabulary)
    _write_vocabulary(writer, tokenizer)
    for tensor_name, tensor in _tensors(model).items():
        array = tensor.detach().numpy()
        writer.add_tensor(tensor_name, array.astype(np.float32 if array.ndim == 1 else np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def read(path: Path) -> Llama:
    """The model of a file written by `write`, its weights rounded to F16 as shipped, computing in float32."""
    reader = GGUFReader(path)
    tensors = {tensor.name: torch.from_numpy(np.array(tensor.data, dtype=np.float32)) for tensor in reader.tensors}
    width = reader.get_field("llama.embedding_length").contents()
    model = Llama(next(size for size in SIZES.values() if size.width == width))
    with torch.no_grad():
        for name, destination in _tensors(model).items():
            destination.copy_(tensors.pop(name))
    if tensors:
        raise ValueError(f"{path} has tensors that the model lacks: {', '.join(tensors)}")
    return model.eval()


def _tensors(model: Llama) -> dict[str, torch.Tensor]:
    """GGUF tensor name → the (view of the) parameter that holds it."""
    named = {"token_embd.weight": model.embedding, "output_norm.weight": model.norm}
    for i, block in enumerate(model.blocks):
        named |= {
            f"blk.{i}.{name}.weight": parameter
            for name, parameter in (
                ("attn_norm", block.attention_norm),
                ("attn_q", block.query_key_value[0]),
                ("attn_k", block.query_key_value[1]),
                ("attn_v", block.query_key_value[2]),
                ("attn_output", block.attention_out),
                ("ffn_norm", block.feed_forward_norm),
                ("ffn_gate", block.gate_up[0]),
                ("ffn_up", block.gate_up[1]),
                ("ffn_down", block.down),
            )
        }
    return named


def _write_vocabulary(writer: GGUFWriter, tokenizer: Tokenizer) -> None:
    tokens = [tokenizer.id_to_token(i) for i in range(tokenizer.get_vocab_size())]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(PRE_TOKENIZER)
    writer.add_token_list(tokens)
    writer.add_token_types([TokenType.CONTROL if token in SPECIAL else TokenType.NORMAL for token in tokens])
    writer.add_token_merges([" ".join(pair) for pair in json.loads(tokenizer.to_str())["model"]["merges"]])
    writer.add_bos_token_id(END_OF_TEXT_ID)
    writer.add_eos_token_id(END_OF_TEXT_ID)
    writer.add_eot_token_id(TURN_END_ID)
    writer.add_pad_token_id(END_OF_TEXT_ID)
    writer.add_add_bos_token(False)
    writer.add_add_eos_token(False)
    writer.add_add_space_prefix(False)
    writer.add_chat_template(CHAT_TEMPLATE)
