"""The architectures that are converted: what each is called, its keys, and where its tensors differ.

Names of tensors come from the gguf package's maps. What a checkpoint asks for and llama.cpp's architecture has no way
to do is refused, for such a model would load and talk nonsense.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import gguf
import numpy as np
from gguf import GGUFWriter
from numpy.typing import NDArray

from eft_gguf.errors import ModelFileError

from .checkpoint import OTHER_CONVERTER
from .rope import DEFAULT_BASE, rope_parameters, write_rope

Config = Mapping[str, Any]
SUFFIXES = (".weight", ".bias")
GEMMA_PATTERN = 6  # the last of so many layers attends to all, the others to a window


@dataclass(frozen=True, slots=True)
class Layout:
    """name: as in general.architecture.  write: the keys.  added_to_norms: what is added to the weights of norms.

    defaults: what published configurations leave out, as transformers fills it in.
    """

    name: str
    write: Callable[[GGUFWriter, Config], None]
    added_to_norms: float = 0.0
    activation: tuple[str, ...] = ("silu", "swish")
    defaults: Config = field(default_factory=dict)


def layout_of(config: Config) -> tuple[Layout, Config]:
    """The layout of a checkpoint, and its configuration made complete. Raises ModelFileError for one not known here."""
    names = config.get("architectures") or ["(none named in config.json)"]
    layout = LAYOUTS.get(str(names[0]))
    if layout is None:
        known = ", ".join(sorted(SERIES))
        raise ModelFileError(f"checkpoints of {names[0]} are not known here, only {known}", hint=OTHER_CONVERTER)
    config = {**layout.defaults, **config}
    quantized = config.get("quantization_config")
    if quantized:
        method = quantized.get("quant_method", "some method") if isinstance(quantized, dict) else "some method"
        hint = "convert the original checkpoint, then: eft-gguf convert quantize"
        raise ModelFileError(f"the checkpoint is quantized already, by {method}", hint=hint)
    activation = config.get("hidden_activation") or config.get("hidden_act") or config.get("activation", "gelu")
    if activation not in layout.activation:
        message = f"{names[0]} with the activation {activation!r}; llama.cpp computes {layout.activation[0]!r} there"
        raise ModelFileError(message, hint=OTHER_CONVERTER)
    return layout, config


def number(config: Config, *names: str) -> int:
    """The first of these whole numbers that the configuration has. Raises ModelFileError."""
    for name in names:
        value = config.get(name)
        if isinstance(value, int) and not isinstance(value, bool) and value > 0:
            return value
    raise ModelFileError(
        f"config.json has no usable {names[0]}: {config.get(names[0])!r}", hint="fetch config.json again"
    )


def heads_of(config: Config) -> tuple[int, int]:
    """Numbers of query heads and of key heads."""
    heads = number(config, "num_attention_heads", "n_head")
    if "multi_query" in config:  # Falcon
        if config.get("new_decoder_architecture"):
            return heads, number(config, "num_kv_heads", "n_head_kv")
        return heads, 1 if config["multi_query"] else heads
    return heads, number({**config, "heads": heads}, "num_key_value_heads", "heads")


def head_size_of(config: Config) -> int:
    """The size of a head."""
    size = config.get("head_dim")
    return size if isinstance(size, int) and size else number(config, "hidden_size") // heads_of(config)[0]


def layers_of(config: Config) -> int:
    """The number of layers."""
    return number(config, "num_hidden_layers", "n_layer")


def tensor_names(architecture: str, layers: int) -> Callable[[str], str | None]:
    """Checkpoint's name → GGUF's name, None for one that is not in the map of `architecture`."""
    kinds = {name: kind for kind, name in gguf.MODEL_ARCH_NAMES.items()}
    table = gguf.get_tensor_name_map(kinds[architecture], layers)

    def rename(name: str) -> str | None:
        # Models that see images have their text model one level down, where versions of transformers differ.
        for prefix in ("language_model.", "model.language_model."):
            if name.startswith(prefix):
                rest = name.removeprefix(prefix)
                name = rest if rest.startswith(("model.", "lm_head.")) else f"model.{rest}"
        found = table.get_name(name, try_suffixes=SUFFIXES)
        return str(found) if found else None

    return rename


def divisors(config: Config) -> NDArray[np.float32] | None:
    """What Llama 3.1 divides frequencies by, None for models without."""
    return write_rope(GGUFWriter(None, "llama"), config, head_size_of(config))


def _write_common(writer: GGUFWriter, config: Config) -> None:
    heads, kv_heads = heads_of(config)
    width = number(config, "hidden_size")
    writer.add_context_length(number({**config, "short": 2048}, "max_position_embeddings", "short"))
    writer.add_embedding_length(width)
    writer.add_block_count(layers_of(config))
    writer.add_feed_forward_length(
        number({**config, "default": 4 * width}, "ffn_hidden_size", "intermediate_size", "default")
    )
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)


def _write_llama(writer: GGUFWriter, config: Config) -> None:
    _write_common(writer, config)
    head = head_size_of(config)
    writer.add_key_length(head)
    writer.add_value_length(head)
    writer.add_layer_norm_rms_eps(float(config.get("rms_norm_eps", 1e-6)))
    if config.get("use_sliding_window") and config.get("sliding_window"):
        raise ModelFileError("the model attends to a sliding window", hint=OTHER_CONVERTER)
    write_rope(writer, config, head)


def _write_falcon(writer: GGUFWriter, config: Config) -> None:
    for name, wanted in (("alibi", False), ("bias", False)):
        if bool(config.get(name, wanted)) is not wanted:
            raise ModelFileError(f"a Falcon with {name!r}, as falcon-rw is", hint=OTHER_CONVERTER)
    if not (config.get("parallel_attn", True) or config.get("new_decoder_architecture")):
        raise ModelFileError("a Falcon whose attention and feed-forward layers are not parallel", hint=OTHER_CONVERTER)
    _write_common(writer, config)
    writer.add_layer_norm_eps(float(config.get("layer_norm_epsilon", 1e-5)))
    if rope_parameters(config)["rope_type"] != "default":
        raise ModelFileError("a Falcon with scaled positions", hint=OTHER_CONVERTER)
    write_rope(writer, config, head_size_of(config))


def _write_gemma3(writer: GGUFWriter, config: Config) -> None:
    """Layers that see a window only have a frequency of their own."""
    _write_common(writer, config)
    head, layers = head_size_of(config), layers_of(config)
    writer.add_key_length(head)
    writer.add_value_length(head)
    writer.add_layer_norm_rms_eps(float(config.get("rms_norm_eps", 1e-6)))
    expected = ["full_attention" if (i + 1) % GEMMA_PATTERN == 0 else "sliding_attention" for i in range(layers)]
    kinds = config.get("layer_types") or expected
    if list(kinds) != expected or config.get("sliding_window_pattern", GEMMA_PATTERN) != GEMMA_PATTERN:
        raise ModelFileError("a Gemma 3 whose sixth layers are not those that attend to all", hint=OTHER_CONVERTER)
    # llama.cpp scales queries by the head's size, in the model of 62 layers by width / heads.
    scalar = config.get("query_pre_attn_scalar", head)
    computed = number(config, "hidden_size") // heads_of(config)[0] if layers == 62 else head
    if scalar != computed or config.get("attn_logit_softcapping") or config.get("use_bidirectional_attention"):
        raise ModelFileError(f"a Gemma 3 with another attention (query_pre_attn_scalar {scalar})", hint=OTHER_CONVERTER)
    writer.add_sliding_window(number(config, "sliding_window"))
    if config.get("final_logit_softcapping"):
        writer.add_final_logit_softcapping(float(config["final_logit_softcapping"]))
    local = rope_parameters(config, "sliding_attention")
    if local["rope_type"] != "default":
        raise ModelFileError("a Gemma 3 whose windows have scaled positions", hint=OTHER_CONVERTER)
    writer.add_rope_freq_base_swa(float(local.get("rope_theta", DEFAULT_BASE)))
    write_rope(writer, config, head)


LLAMA = Layout("llama", _write_llama)
GEMMA_3 = Layout(
    "gemma3",
    _write_gemma3,
    added_to_norms=1.0,
    activation=("gelu_pytorch_tanh",),
    defaults={
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 256,
        "query_pre_attn_scalar": 256,
        "hidden_activation": "gelu_pytorch_tanh",
        "max_position_embeddings": 131_072,
        "rope_theta": 1_000_000.0,
    },
)
LAYOUTS = {
    "LlamaForCausalLM": LLAMA,
    "MistralForCausalLM": LLAMA,
    "Qwen2ForCausalLM": Layout("qwen2", _write_llama),
    "Qwen3ForCausalLM": Layout("qwen3", _write_llama),
    "Gemma3ForCausalLM": GEMMA_3,
    "Gemma3ForConditionalGeneration": GEMMA_3,
    "FalconForCausalLM": Layout("falcon", _write_falcon, activation=("gelu",)),
}
SERIES = ("Llama", "Mistral", "Qwen2", "Qwen3", "Gemma 3", "Falcon", "SmolLM2")
