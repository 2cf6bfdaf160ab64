"""Model files and adapters that are wrong somewhere: seeded, so that each can be made again by its number."""

from __future__ import annotations

import math
import random
import struct
from collections.abc import Callable, Iterator

from tests.hostile.gguf_layout import (
    ARRAY,
    BOOL,
    F32,
    F64,
    I8,
    I32,
    I64,
    STRING,
    U8,
    U32,
    U64,
    Info,
    Layout,
    Raw,
    parse,
)

NAN, INF = math.nan, math.inf
VALUES = [
    (U8, 0), (U8, 255), (I8, -1), (U32, 0), (U32, 1), (U32, 3), (U32, 2**31 - 1), (U32, 2**31), (U32, 2**32 - 1),
    (I32, -1), (I32, -(2**31)), (F32, 0.0), (F32, NAN), (F32, INF), (F32, -1.0), (F32, 1e30), (BOOL, 0), (BOOL, 1),
    (BOOL, 7), (STRING, b""), (STRING, b"x"), (STRING, b"\xff\xfe\x80"), (STRING, b"a\0b"), (STRING, b"x" * 100_000),
    (STRING, b"\x1b]0;owned\x07"), (U64, 0), (U64, 2**40), (U64, 2**63), (U64, 2**64 - 1), (I64, -1), (F64, NAN),
    (ARRAY, (U32, [])), (ARRAY, (U32, [1])), (ARRAY, (U32, [2**32 - 1] * 3)), (ARRAY, (I32, [-1] * 3)),
    (ARRAY, (F32, [NAN] * 2)), (ARRAY, (BOOL, [1, 0])), (ARRAY, (STRING, [])), (ARRAY, (STRING, [b"a", b"\xff"])),
    (ARRAY, (U32, [2] * 3000)), (ARRAY, (ARRAY, [(U32, [1])])), (ARRAY, Raw(struct.pack("<IQ", U32, 2**62))),
    (ARRAY, Raw(struct.pack("<IQ", STRING, 2**61))), (ARRAY, Raw(struct.pack("<IQ", 99, 1) + bytes(8))),
    (STRING, Raw(struct.pack("<Q", 2**63) + b"x")), (13, Raw(bytes(8))), (99, Raw(bytes(8))),
]  # fmt: skip
OTHER_KEYS = [
    "general.alignment", "general.type", "split.count", "split.no", "llama.attention.key_length",
    "llama.attention.value_length", "llama.expert_count", "llama.expert_used_count", "llama.rope.scaling.type",
    "llama.rope.scaling.factor", "llama.attention.sliding_window", "llama.ssm.state_size", "llama.ssm.inner_size",
    "llama.full_attention_interval", "llama.attention.shared_kv_layers", "llama.shortconv.l_cache",
    "llama.wkv.head_size", "llama.attention.kv_lora_rank", "llama.attention.key_length_mla", "llama.vocab_size",
    "tokenizer.ggml.scores", "tokenizer.ggml.unknown_token_id", "tokenizer.ggml.suppress_tokens",
    "llama.rope.dimension_sections", "llama.attention.causal", "llama.logit_scale", "llama.residual_scale",
    "tokenizer.ggml.precompiled_charsmap", "tokenizer.ggml.added_tokens", "adapter.type", "adapter.lora.alpha",
]  # fmt: skip
ARCHITECTURES = [
    "", "qwen2", "mamba", "rwkv7", "gemma3", "falcon-h1", "bert", "t5", "clip", "gpt2", "deepseek2", "nosuch", "LLAMA",
    "llama4", "phi3", "\x1b[2J", "a" * 100_000,
]  # fmt: skip
TEMPLATES = [
    "", "{% for m in messages %}", "{{ nope.nope }}", "{{ raise_exception('\x1b]0;owned\x07') }}", "{{ 'a' * 10**10 }}",
    "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "{{ messages | tojson(indent=10**9) }}",
    "{% macro f(x) %}{{ f(x) }}{% endmacro %}{{ f(1) }}", "{{ ''.__class__.__mro__ }}", "{% include '/etc/passwd' %}",
    "<|im_start|>" * 600, "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}", "{{ lipsum(n=10**7) }}", "\x1b[2J\0",
]  # fmt: skip
SHAPES = [
    [], [0], [0, 0], [1], [32, 32, 1], [32, 32, 1, 1, 1], [2**63, 2], [2**64 - 1] * 2, [2**32, 2**32], [31, 32],
    [33, 32],
    [32, 2**40], [2**62, 2, 2], [64, 16], [1, 1024],
]  # fmt: skip
TOKENS = "tokenizer.ggml.tokens", "tokenizer.ggml.token_type", "tokenizer.ggml.merges"
Change = Callable[[random.Random, Layout], None]


def mutants(source: bytes, seed: int) -> Iterator[tuple[str, bytes]]:
    """Wrong files without end: what was done, and the file."""
    sound, number = parse(source), 0
    assert sound.bytes() == source
    while True:
        draw = random.Random(f"{seed}/{number}")
        change = draw.choice(CHANGES)
        layout = sound.copy()
        data: bytes | None = None
        try:
            for _ in range(draw.choice((1, 1, 1, 2))):
                change(draw, layout)
            data = layout.bytes()
        except (struct.error, ValueError, IndexError):
            pass  # a change that cannot be written, such as 300 where a byte belongs
        if data is not None:
            if draw.random() < 0.1:
                data = _spoilt(draw, data, len(layout.header()))
            yield f"{number}: {change.__name__.strip('_')}", data
        number += 1


def _value(draw: random.Random, layout: Layout) -> None:
    layout.put(draw.choice(layout.keys)[0], *draw.choice(VALUES))


def _other_key(draw: random.Random, layout: Layout) -> None:
    layout.put(draw.choice(OTHER_KEYS).encode(), *draw.choice(VALUES))


def _lost_or_doubled_key(draw: random.Random, layout: Layout) -> None:
    at = draw.randrange(len(layout.keys))
    if draw.random() < 0.5:
        del layout.keys[at]
    else:
        layout.keys.append(layout.keys[at])


def _architecture(draw: random.Random, layout: Layout) -> None:
    name = draw.choice(ARCHITECTURES).encode()
    if draw.random() < 0.5:
        layout.keys = [(key.replace(b"llama.", name + b"."), kind, value) for key, kind, value in layout.keys]
    layout.put(b"general.architecture", STRING, name)


def _tensor(draw: random.Random, layout: Layout) -> None:
    info = draw.choice(layout.tensors)
    part = draw.randrange(6)
    if part == 0:
        names = [b"", b"x" * 64, b"x" * 1000, b"\xff\xfe", b"output.weight", b"blk.99.attn_q.weight", b"a\0b"]
        info.name = draw.choice(names)
    elif part == 1:
        info.shape = draw.choice(SHAPES)
    elif part == 2:
        info.kind = draw.choice([*range(46), 64, 255, 2**31, 2**32 - 1])
    elif part == 3:
        info.offset = draw.choice(
            [0, 1, 16, info.offset + 1, info.offset + 32, len(layout.data), 2**32, 2**63, 2**64 - 1]
        )
    elif part == 4:
        info.dimensions = draw.choice([0, 1, 3, 4, 5, 100, 2**31, 2**32 - 1])
    elif draw.random() < 0.5:
        layout.tensors.remove(info)
    else:
        layout.tensors.append(Info(info.name, list(info.shape), info.kind, info.offset))


def _counts(draw: random.Random, layout: Layout) -> None:
    numbers = [0, 1, 2, 2**16, 2**31, 2**32, 2**63, 2**64 - 1]
    part = draw.randrange(4)
    if part == 0:
        layout.claimed_tensors = draw.choice([*numbers, len(layout.tensors) - 1, len(layout.tensors) + 1])
    elif part == 1:
        layout.claimed_keys = draw.choice([*numbers, len(layout.keys) - 1, len(layout.keys) + 1])
    elif part == 2:
        layout.version = draw.choice([0, 1, 2, 4, 3 << 24, 2**32 - 1])
    else:
        layout.magic = draw.choice([b"GGML", b"FUGG", bytes(4)])


def _alignment(draw: random.Random, layout: Layout) -> None:
    number = draw.choice([1, 2, 3, 8, 16, 64, 4096, 2**20])
    layout.put(b"general.alignment", U32, number)
    if draw.random() < 0.5:
        layout.alignment = number


def _vocabulary(draw: random.Random, layout: Layout) -> None:
    if layout.index(TOKENS[0].encode()) < 0:
        return _value(draw, layout)
    _of, tokens = layout.value(TOKENS[0].encode())
    at = draw.randrange(len(tokens))
    changes: list[Callable[[], object]] = [
        lambda: tokens.__setitem__(at, b""),
        lambda: tokens.__setitem__(at, tokens[at - 1]),
        lambda: tokens.__setitem__(at, b"\xff\xfe"),
        lambda: tokens.__setitem__(at, b"x" * 100_000),
        lambda: tokens.__setitem__(at, bytes(100)),
        tokens.clear,
        tokens.pop,
        tokens.reverse,
        lambda: tokens.extend(tokens),
        lambda: tokens.append(b"more"),
        lambda: tokens.insert(at, b"\x1b[2J"),
    ]
    draw.choice(changes)()
    kinds = [draw.choice([[1], [0], [99], [3], [6], [2], [5]])[0]] * len(tokens)
    if draw.random() < 0.7:
        layout.put(TOKENS[1].encode(), ARRAY, (I32, kinds if draw.random() < 0.5 else [1] * len(tokens)))
    if draw.random() < 0.3:
        wrong = [[b"abc"], [b" "], [b""], [b"qq zz"], [b"\xff \xfe"], [b"a" * 10_000 + b" b"], []]
        layout.put(TOKENS[2].encode(), ARRAY, (STRING, draw.choice(wrong)))
    if draw.random() < 0.2:
        layout.put(
            b"tokenizer.ggml.model", STRING, draw.choice([b"", b"llama", b"bert", b"t5", b"rwkv", b"none", b"x"])
        )
    return None


def _template(draw: random.Random, layout: Layout) -> None:
    layout.put(b"tokenizer.chat_template", STRING, draw.choice(TEMPLATES).encode())


def _weights(draw: random.Random, layout: Layout) -> None:
    words = len(layout.data) // 4
    number = draw.choice([NAN, INF, -INF, 0.0, 3e38])
    if draw.random() < 0.5:
        layout.data = struct.pack("<f", number) * words
    else:
        at = 4 * draw.randrange(words)
        layout.data = layout.data[:at] + struct.pack("<f", number) + layout.data[at + 4 :]


CHANGES: list[Change] = [
    _value, _value, _value, _other_key, _other_key, _lost_or_doubled_key, _architecture, _tensor, _tensor, _counts,
    _alignment, _vocabulary, _vocabulary, _template, _weights,
]  # fmt: skip


def _spoilt(draw: random.Random, data: bytes, header: int) -> bytes:
    """Cut off somewhere, or with some bytes of the header turned over."""
    if draw.random() < 0.4:
        return data[: draw.choice([draw.randrange(200), draw.randrange(header), draw.randrange(len(data))])]
    spoilt = bytearray(data)
    for _ in range(draw.choice((1, 1, 2, 8))):
        spoilt[draw.randrange(min(header, len(data)))] ^= 1 << draw.randrange(8)
    return bytes(spoilt)
