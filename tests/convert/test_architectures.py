"""The keys that published configurations lead to. No model is needed: these are the sizes of the real ones."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from gguf import GGUFWriter

from eft_gguf.convert.architectures import divisors, layout_of
from eft_gguf.convert.rope import llama3_divisors, rope_parameters
from eft_gguf.errors import ModelFileError

GEMMA_3_4B = {
    "architectures": ["Gemma3ForConditionalGeneration"],
    "hidden_size": 2560,
    "intermediate_size": 10240,
    "num_hidden_layers": 34,
    "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
    "sliding_window": 1024,
}
LLAMA_3_1_8B = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_act": "silu",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "max_position_embeddings": 131072,
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 8,
    "rms_norm_eps": 1e-05,
    "rope_scaling": {
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
        "rope_type": "llama3",
    },
    "rope_theta": 500000.0,
}
FALCON_7B = {
    "architectures": ["FalconForCausalLM"],
    "alibi": False,
    "bias": False,
    "hidden_size": 4544,
    "multi_query": True,
    "new_decoder_architecture": False,
    "num_attention_heads": 71,
    "num_hidden_layers": 32,
    "parallel_attn": True,
}
LLAMA_7B = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_act": "silu",
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "rms_norm_eps": 1e-06,
}


def keys(config: dict[str, Any]) -> dict[str, Any]:
    layout, complete = layout_of(config)
    writer = GGUFWriter(None, layout.name)
    layout.write(writer, complete)
    found = {key.removeprefix(f"{layout.name}."): value.value for key, value in writer.kv_data[0].items()}
    return {key: getattr(value, "value", value) for key, value in found.items()}


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (
            GEMMA_3_4B,
            {
                "context_length": 131072,
                "attention.head_count": 8,
                "attention.head_count_kv": 4,
                "attention.key_length": 256,
                "attention.sliding_window": 1024,
                "rope.freq_base": 1_000_000.0,
                "rope.freq_base_swa": 10_000.0,
                "rope.scaling.type": "linear",
                "rope.scaling.factor": 8.0,
            },
        ),
        (
            LLAMA_3_1_8B,
            {
                "attention.head_count_kv": 8,
                "attention.key_length": 128,
                "rope.dimension_count": 128,
                "rope.freq_base": 500_000.0,
                "context_length": 131072,
            },
        ),
        (FALCON_7B, {"attention.head_count_kv": 1, "feed_forward_length": 18176, "context_length": 2048}),
        (LLAMA_7B, {"attention.head_count_kv": 32, "rope.freq_base": 10_000.0, "context_length": 2048}),
    ],
)
def test_published_configurations(config: dict[str, Any], expected: dict[str, Any]) -> None:
    found = keys(config)
    assert {key: found.get(key) for key in expected} == expected


def test_llama_3_divides_slow_frequencies_only() -> None:
    """By hand: at base 10,000 and a head of 4 the frequencies are 1 and 0.01; 64 tokens are 10.2 turns and 0.1."""
    rope = {"rope_theta": 10_000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    np.testing.assert_allclose(llama3_divisors({**rope, "original_max_position_embeddings": 64}, 4), [1.0, 8.0])
    # 2.5 turns lie half way: half of the frequency stays, half is divided.
    middle = {**rope, "original_max_position_embeddings": 2.5 * 2 * np.pi}
    np.testing.assert_allclose(llama3_divisors(middle, 4)[0], 1 / (0.5 / 8 + 0.5), rtol=1e-6)
    found = divisors(LLAMA_3_1_8B)
    assert found is not None
    assert found.shape == (64,) and found[0] == 1.0 and found[-1] == 8.0
    assert divisors(LLAMA_7B) is None


def test_positions_as_old_and_new_versions_write_them() -> None:
    assert rope_parameters({"rope_theta": 5.0, "rope_scaling": {"type": "linear", "factor": 2.0}}) == {
        "rope_theta": 5.0,
        "type": "linear",
        "factor": 2.0,
        "rope_type": "linear",
    }
    assert rope_parameters(GEMMA_3_4B, "sliding_attention") == {"rope_theta": 10_000.0, "rope_type": "default"}
    new = {"rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 7.0}}}
    assert rope_parameters(new)["rope_theta"] == 7.0


@pytest.mark.parametrize(
    ("config", "change", "reason"),
    [
        (LLAMA_7B, {"hidden_act": "relu"}, "activation 'relu'"),
        (LLAMA_7B, {"partial_rotary_factor": 0.5}, "0.5 of each head"),
        (FALCON_7B, {"alibi": True}, "'alibi'"),
        (FALCON_7B, {"parallel_attn": False}, "not parallel"),
        (GEMMA_3_4B, {"query_pre_attn_scalar": 100}, "another attention"),
        (GEMMA_3_4B, {"sliding_window_pattern": 2}, "sixth layers"),
        (LLAMA_7B, {"architectures": ["Qwen2ForCausalLM"], "use_sliding_window": True, "sliding_window": 9}, "window"),
    ],
)
def test_what_llama_cpp_would_compute_otherwise_is_refused(
    config: dict[str, Any], change: dict[str, Any], reason: str
) -> None:
    with pytest.raises(ModelFileError, match=reason) as error:
        keys(config | change)
    assert "convert_hf_to_gguf.py" in error.value.hint
