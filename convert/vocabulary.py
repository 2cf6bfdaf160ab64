"""A checkpoint's tokens as llama.cpp wants them: texts, types, and merges (BPE) or scores (SentencePiece)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gguf

from eft_gguf.errors import ModelFileError
from eft_gguf.files import read_text
from eft_gguf.models.metadata import BYTE, CONTROL, NORMAL, UNKNOWN, UNUSED, USER_DEFINED

from .checkpoint import FETCH_AGAIN, OTHER_CONVERTER, read_json
from .pre_tokenizers import pre_tokenizer_name

BYTE_PIECE = re.compile(r"<0x[0-9A-F]{2}>")
SPACE = "▁"  # how SentencePiece writes a space


@dataclass(slots=True)
class Vocabulary:
    """model: as in tokenizer.ggml.model, "gpt2" for BPE over bytes, "llama" for SentencePiece."""

    model: str
    pre: str
    tokens: list[str]
    types: list[int]
    merges: list[str] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    space_in_front: bool = False
    left_out: list[str] = field(default_factory=list)  # tokens that the model has no row for
    normalization: str = ""  # what happens to texts before that llama.cpp does not do, such as "NFC"

    def write(self, writer: gguf.GGUFWriter) -> None:
        """Write the keys."""
        writer.add_tokenizer_model(self.model)
        writer.add_tokenizer_pre(self.pre)
        writer.add_token_list(self.tokens)
        writer.add_token_types(self.types)
        if self.model == "llama":
            writer.add_token_scores(self.scores)
        else:
            writer.add_token_merges(self.merges)
        writer.add_add_space_prefix(self.space_in_front)

    def fill_up(self, rows: int) -> None:
        """Add entries that no text leads to, one for each row of the embedding that has no token."""
        for index in range(len(self.tokens), rows):
            self._append(f"[PAD{index}]")

    def cut_off(self, rows: int) -> None:
        """Leave out added tokens at the end that have no row, as Gemma 3's for images in models that see none."""
        while len(self.tokens) > rows and self.types[-1] in (CONTROL, USER_DEFINED, UNUSED):
            if self.types[-1] != UNUSED:
                self.left_out.append(self.tokens[-1])
            for values in (self.tokens, self.types, self.scores):
                if values:
                    values.pop()

    def _append(self, text: str) -> None:
        self.tokens.append(text)
        self.types.append(UNUSED)
        if self.scores:
            self.scores.append(-10_000.0)


def read_vocabulary(folder: Path, rows: int) -> Vocabulary:
    """The tokens of a checkpoint whose embedding has `rows` rows. Raises ModelFileError."""
    if (folder / "tokenizer.json").exists():
        vocabulary = _from_json(read_json(folder / "tokenizer.json", hint=FETCH_AGAIN))
        if vocabulary.model == "llama" and (folder / "tokenizer.model").exists():
            _take_scores(vocabulary, folder)
    elif (folder / "tokenizer.model").exists():
        vocabulary = _from_pieces(folder)
    else:
        raise ModelFileError(
            f"{folder} has no tokenizer: neither tokenizer.json nor tokenizer.model",
            hint="fetch them from where the model came from, or save them there: tokenizer.save_pretrained(FOLDER)",
        )
    vocabulary.cut_off(rows)
    if len(vocabulary.tokens) > rows:
        raise ModelFileError(
            f"the tokenizer has {len(vocabulary.tokens):,} tokens, the embedding only {rows:,} rows",
            hint="tokens were added without model.resize_token_embeddings(len(tokenizer)), or the tokenizer is "
            "another model's",
        )
    vocabulary.fill_up(rows)
    return vocabulary


def _from_json(entry: Mapping[str, Any]) -> Vocabulary:
    model = entry.get("model", {})
    if model.get("type") != "BPE":
        raise ModelFileError(f"a tokenizer of type {model.get('type')!r} is not known here", hint=OTHER_CONVERTER)
    added = {token["content"]: token for token in entry.get("added_tokens", [])}
    ids = dict(model["vocab"]) | {text: token["id"] for text, token in added.items()}
    pieces = bool(model.get("byte_fallback"))
    tokens, types = [], []
    by_id = {index: text for text, index in ids.items()}
    for index in range(max(by_id, default=-1) + 1):
        text = by_id.get(index)
        tokens.append(f"[PAD{index}]" if text is None else text)
        types.append(UNUSED if text is None else _type(text, added.get(text), pieces, model.get("unk_token")))
    merges = [merge.split(" ", 1) if isinstance(merge, str) else list(merge) for merge in model.get("merges", [])]
    normalizers = _parts(entry.get("normalizer"), "normalizers")
    if not pieces:
        return Vocabulary(
            "gpt2",
            pre_tokenizer_name(entry.get("pre_tokenizer")),
            tokens,
            types,
            merges=[" ".join(_without_spaces(part) for part in merge) for merge in merges],
            normalization=", ".join(str(part["type"]) for part in normalizers),
        )
    fronts = [part.get("prepend") == SPACE for part in normalizers if part["type"] == "Prepend"]
    for part in _parts(entry.get("pre_tokenizer"), "pretokenizers"):
        if part["type"] == "Metaspace":
            fronts.append(part.get("prepend_scheme", "always") != "never" and part.get("add_prefix_space", True))
    return Vocabulary(
        "llama",
        "default",
        tokens,
        types,
        scores=_scores(tokens, types, merges),
        space_in_front=any(fronts),
        normalization=", ".join(str(p["type"]) for p in normalizers if p["type"] not in ("Prepend", "Replace")),
    )


def _parts(entry: Mapping[str, Any] | None, key: str) -> list[Mapping[str, Any]]:
    if entry is None:
        return []
    return list(entry[key]) if entry.get("type") == "Sequence" else [entry]


def _without_spaces(part: str) -> str:
    """Merges are written with a space between their halves, so that one inside must look otherwise."""
    return "".join(chr(ord(letter) + 256) if letter == " " else letter for letter in part)


def _type(text: str, added: Mapping[str, Any] | None, pieces: bool, unknown: str | None) -> int:
    if pieces and text == (unknown or "<unk>"):
        return UNKNOWN
    if added is not None:
        return CONTROL if added.get("special") else USER_DEFINED
    return BYTE if pieces and BYTE_PIECE.fullmatch(text) else NORMAL


def _scores(tokens: list[str], types: list[int], merges: Iterable[list[str]]) -> list[float]:
    """SentencePiece joins the pair whose piece has the best score, so scores fall in the order of merges."""
    rank: dict[str, int] = {}
    for place, (left, right) in enumerate(merges):
        rank.setdefault(left + right, place)
    text = [index for index, kind in enumerate(types) if kind in (NORMAL, USER_DEFINED)]
    scores = [0.0] * len(tokens)
    for place, index in enumerate(sorted(text, key=lambda index: (rank.get(tokens[index], len(rank) + index), index))):
        scores[index] = -float(place)
    return scores


def _take_scores(vocabulary: Vocabulary, folder: Path) -> None:
    """Scores of a tokenizer.model beside a tokenizer.json: in the same order, and the numbers that other files have."""
    if USER_DEFINED in vocabulary.types:  # those stand in no order with others in a tokenizer.model
        return
    try:
        original = _from_pieces(folder)
    except ModelFileError:  # sentencepiece is not there, or the file is of another format
        return
    for index, text in enumerate(original.tokens[: len(vocabulary.tokens)]):
        if text == vocabulary.tokens[index]:
            vocabulary.scores[index] = original.scores[index]


def _from_pieces(folder: Path) -> Vocabulary:
    try:
        from sentencepiece import SentencePieceProcessor
    except ImportError:
        raise ModelFileError(
            f"{folder} has a tokenizer.model, which the package sentencepiece reads, and it is not installed",
            hint="pip install 'eft-gguf[convert]'",
        ) from None
    path = folder / "tokenizer.model"
    try:
        pieces = SentencePieceProcessor(model_file=str(path))
    except (OSError, RuntimeError) as error:
        raise ModelFileError(f"cannot read {path}: {error}", hint=FETCH_AGAIN) from None
    count = pieces.vocab_size()
    added = _added_tokens(folder)
    size = max([count, *(index + 1 for index in added)])
    tokens, types, scores = [], [], []
    for index in range(size):
        text, kind, score = f"[PAD{index}]", UNUSED, -10_000.0
        if index < count:
            text, score, kind = pieces.id_to_piece(index), pieces.get_score(index), NORMAL
            if pieces.is_unknown(index):
                kind = UNKNOWN
            elif pieces.is_control(index):
                kind = CONTROL
            elif pieces.is_unused(index):
                kind = UNUSED
            elif pieces.is_byte(index):
                kind = BYTE
        if index in added:
            text, special = added[index]
            kind = kind if kind == UNKNOWN else CONTROL if special else USER_DEFINED
        tokens.append(text)
        types.append(kind)
        scores.append(float(score))
    front = pieces.encode("a", out_type=str)[0].startswith(SPACE)
    return Vocabulary("llama", "default", tokens, types, scores=scores, space_in_front=front)


def _added_tokens(folder: Path) -> dict[int, tuple[str, bool]]:
    """By id: text, and whether it marks structure. From the files beside a tokenizer.model."""
    found: dict[int, tuple[str, bool]] = {}
    path = folder / "added_tokens.json"
    if path.exists():
        found |= {int(index): (text, True) for text, index in read_json(path, hint=FETCH_AGAIN).items()}
    path = folder / "tokenizer_config.json"
    if path.exists():
        decoder = read_json(path, hint=FETCH_AGAIN).get("added_tokens_decoder", {})
        found |= {int(index): (entry["content"], bool(entry.get("special"))) for index, entry in decoder.items()}
    return found


def chat_template(folder: Path) -> str | list[dict[str, str]] | None:
    """The template or templates of a checkpoint, wherever a version of transformers has put them."""
    path = folder / "chat_template.jinja"
    if path.exists():
        first = _template(path)
        others = sorted((folder / "additional_chat_templates").glob("*.jinja"))
        named = [{"name": other.stem, "template": _template(other)} for other in others]
        return [{"name": "default", "template": first}, *named] if named else first
    for name in ("tokenizer_config.json", "chat_template.json"):
        if (folder / name).exists():
            template = read_json(folder / name, hint=FETCH_AGAIN).get("chat_template")
            if isinstance(template, str | list) and template:
                return template
    return None


def _template(path: Path) -> str:
    try:
        return read_text(path)
    except (OSError, UnicodeDecodeError) as error:
        raise ModelFileError(f"cannot read {path}: {error}", hint=FETCH_AGAIN) from None


def tokenizer_entry(folder: Path) -> dict[str, Any]:
    """tokenizer.json, empty where there is none."""
    path = folder / "tokenizer.json"
    return read_json(path, hint=FETCH_AGAIN) if path.exists() else {}
