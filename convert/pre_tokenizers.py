"""How text is cut before byte-pair encoding: what tokenizer.json says → the name that llama.cpp knows it by.

llama.cpp has each way built in, under a name that `tokenizer.ggml.pre` gives. A tokenizer.json describes its way as
steps. They are known by what they do, so that a tokenizer trained anew the same way is known too.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from eft_gguf.errors import ModelFileError

from .checkpoint import OTHER_CONVERTER

_CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_CASED = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
)
_WORDS = r"|[^\r\n\p{L}\p{N}]?\p{L}+"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"

KNOWN: dict[tuple[str, ...], str] = {
    ("split " + _CONTRACTIONS + _WORDS + r"|\p{N}{1,3}" + _REST,): "llama-bpe",  # Llama 3
    ("split " + _CONTRACTIONS + _WORDS + r"|\p{N}" + _REST,): "qwen2",  # Qwen2, Qwen2.5, Qwen3
    ("split " + _CASED + r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",): "tekken",  # Mistral NeMo
    ("digits alone", "gpt-2"): "smollm",  # SmolLM, SmolLM2
    ("punctuation Contiguous", "gpt-2", "digits", "split [0-9][0-9][0-9]"): "falcon",
    ("gpt-2",): "gpt-2",
}
"""Steps → name. Each is held against llama.cpp on difficult texts by tests/convert/test_hf.py."""


def pre_tokenizer_name(pre_tokenizer: Mapping[str, Any] | None) -> str:
    """llama.cpp's name. Raises ModelFileError, with the steps, for a way that is not known here."""
    steps = tuple(_steps(pre_tokenizer or {}))
    name = KNOWN.get(steps)
    if name is None:
        raise ModelFileError(
            f"the tokenizer cuts text in a way that is not known here: {', then '.join(steps) or 'not at all'}",
            hint=OTHER_CONVERTER,
        )
    return name


def _steps(entry: Mapping[str, Any]) -> list[str]:
    kind = entry.get("type")
    if kind == "Sequence":
        return [step for part in entry["pretokenizers"] for step in _steps(part)]
    if kind == "ByteLevel":
        # Without its expression it only writes bytes as letters, which all these tokenizers do.
        prefix = ["a space in front"] if entry.get("add_prefix_space") else []
        return prefix + (["gpt-2"] if entry.get("use_regex", True) else [])
    if kind == "Digits":
        return ["digits alone" if entry.get("individual_digits") else "digits"]
    if kind == "Punctuation":
        return [f"punctuation {entry.get('behavior')}"]
    if kind == "Split" and entry.get("behavior") == "Isolated" and not entry.get("invert"):
        pattern = entry["pattern"]
        return [f"split {pattern.get('Regex') or pattern.get('String')}"]
    if kind is None:
        return []
    return [str(kind)]
