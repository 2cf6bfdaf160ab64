"""What models need, worked out by hand."""

from dataclasses import replace

import pytest

from eft_gguf import OptionError
from eft_gguf.models.cache import KV_TYPES, kv_bytes, require_kv_type
from eft_gguf.models.header import BLOCKS
from eft_gguf.models.memory import needed, weights_in_use
from eft_gguf.models.metadata import read_metadata
from tests.tiny_models import HEADS, LAYERS, WIDTH

CELLS = 512
NUMBERS = 2 * LAYERS * WIDTH * CELLS
"""Keys and values of a tiny model, whose heads together are as wide as it is."""


def test_kv_cache(tiny):
    model = read_metadata(tiny.base)
    assert kv_bytes(model, CELLS) == 2 * NUMBERS
    assert kv_bytes(model, CELLS - 100) == 2 * NUMBERS  # rounded up to 256 cells
    assert kv_bytes(model, CELLS, "f32") == 4 * NUMBERS
    assert kv_bytes(model, CELLS, "q8_0") == NUMBERS // 32 * 34


def test_kv_cache_of_fewer_heads_wide_keys_and_heads_by_layer(tiny):
    model = read_metadata(tiny.base)

    def changed(**fields):
        return replace(model, fields={**model.fields, **{f"llama.attention.{key}": v for key, v in fields.items()}})

    assert kv_bytes(changed(head_count_kv=1), CELLS) == NUMBERS * 2 // HEADS
    assert kv_bytes(changed(key_length=3 * WIDTH // HEADS), CELLS) == 2 * 2 * NUMBERS
    assert kv_bytes(changed(head_count_kv=[HEADS, 0]), CELLS) == NUMBERS  # the second layer keeps nothing


def test_each_file_counts_once_each_member_has_a_cache(tiny):
    base, untuned, adapter = map(read_metadata, (tiny.base, tiny.untuned, tiny.adapter))
    members = {"base": base, "untuned": untuned, "a": adapter, "b": untuned}
    memory = needed(members, ctx=256, sequences=2)
    assert memory.files == base.size_bytes + untuned.size_bytes + adapter.size_bytes
    assert memory.kv == 4 * 2 * NUMBERS
    assert memory.weights == sum(map(weights_in_use, (base, untuned, adapter)))
    embeddings = 4 * WIDTH * base.vocabulary.size  # a table of which a token reads one row
    assert weights_in_use(base) == pytest.approx(base.size_bytes - embeddings, rel=0.1)


def test_heads_that_a_quantized_cache_cannot_hold(tiny):
    model = read_metadata(tiny.base)
    require_kv_type("bf16", [model])
    with pytest.raises(OptionError, match=r"q8_0 packs 32 numbers together, but .* of base\.gguf has 16"):
        require_kv_type("q8_0", [read_metadata(tiny.adapter), model])


def test_the_types_are_llama_cpps():
    gguf = pytest.importorskip("gguf")
    for name, number in KV_TYPES.items():
        assert gguf.GGMLQuantizationType[name.upper()] == number
        assert gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType(number)] == BLOCKS[number]
