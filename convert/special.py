"""Tokens with a role: what begins a text, what ends one, what ends a turn, and what is added unasked."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gguf

from .checkpoint import FETCH_AGAIN, read_json
from .vocabulary import Vocabulary, tokenizer_entry

TURN = re.compile(r"im_end|eot|EOT|end_of_turn|\|end\|")
KNOWN_END = re.compile(rf"{TURN.pattern}|endoftext|end_of_text|eom_id|^</s>$|^<eos>$")
ROLES = {"bos": "bos_token", "eos": "eos_token", "unk": "unk_token", "pad": "pad_token"}


def write_special(writer: gguf.GGUFWriter, folder: Path, config: Mapping[str, Any], vocabulary: Vocabulary) -> None:
    """Write the ids of special tokens, and which of them llama.cpp adds to texts."""
    settings = _optional(folder / "tokenizer_config.json")
    named = _optional(folder / "special_tokens_map.json") | settings
    place = {text: index for index, text in enumerate(vocabulary.tokens)}
    ids: dict[str, int] = {}
    for role, key in ROLES.items():
        token = named.get(key)
        text = token.get("content") if isinstance(token, dict) else token
        index = place.get(text) if isinstance(text, str) else None
        listed = _ids(config.get(f"{key}_id"), len(vocabulary.tokens))
        if index is None and listed:
            index = listed[0]
        if index is not None:
            ids[role] = index
    ends = end_ids(folder, config, len(vocabulary.tokens))
    if "eos" not in ids and ends:
        ids["eos"] = ends[0]
    others = [index for index in ends if index != ids.get("eos")]
    turns = [index for index in others if TURN.search(vocabulary.tokens[index])]
    # llama.cpp knows the usual ends by their texts. Another one needs a role.
    unusual = [index for index in others if not KNOWN_END.search(vocabulary.tokens[index])]
    if turns or unusual:
        ids["eot"] = (turns or unusual)[0]
    for role, index in ids.items():
        getattr(writer, f"add_{role}_token_id")(index)
    front, end = added(folder, vocabulary)
    writer.add_add_bos_token(front and "bos" in ids)
    writer.add_add_eos_token(end and "eos" in ids)


def end_ids(folder: Path, config: Mapping[str, Any], size: int) -> list[int]:
    """Ids that end a generation, by generation_config.json or else config.json."""
    generation = _optional(folder / "generation_config.json")
    for source in (generation, config):
        found = _ids(source.get("eos_token_id"), size)
        if found:
            return found
    return []


def added(folder: Path, vocabulary: Vocabulary) -> tuple[bool, bool]:
    """Whether the tokenizer puts a token before a text, and one behind it."""
    settings = _optional(folder / "tokenizer_config.json")
    front, end = settings.get("add_bos_token"), settings.get("add_eos_token")
    default = vocabulary.model == "llama"
    processor = tokenizer_entry(folder).get("post_processor") or {}
    for part in processor.get("processors", [processor]):
        if part.get("type") == "TemplateProcessing":
            steps = [next(iter(step)) for step in part["single"]]
            at = steps.index("Sequence")
            return "SpecialToken" in steps[:at], "SpecialToken" in steps[at:]
    if tokenizer_entry(folder):
        default = False
    return bool(default if front is None else front), bool(end)


def _ids(value: Any, size: int) -> list[int]:
    values: Sequence[Any] = value if isinstance(value, list) else [value]
    return [index for index in values if type(index) is int and 0 <= index < size]


def _optional(path: Path) -> dict[str, Any]:
    return read_json(path, hint=FETCH_AGAIN) if path.exists() else {}
