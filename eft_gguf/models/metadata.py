"""What a GGUF file says about itself, and its vocabulary, without loading the model."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from eft_gguf.errors import ModelFileError
from eft_gguf.models.fields import refused, whole_number
from eft_gguf.models.header import DAMAGED_HINT, TYPE_NAMES, StringArray, Tensor, read_header
from eft_gguf.printable import printable

NORMAL = 1  # llama.cpp's token type of text
UNKNOWN, CONTROL = 2, 3
USER_DEFINED, BYTE = 4, 6
UNUSED = 5  # llama.cpp's token type of entries that only fill the vocabulary up
SHORT = 1024  # arrays up to this length (heads per layer, tags) are kept among the fields
MOST_PARTS = 99_999
"""Their numbers have five digits."""
LONG_KEYS = ("tokens", "token_type", "scores", "merges")
LONGEST_NAME = 200
PART = re.compile(r"(?P<name>.*)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf")
"""How the files of a split model are called."""
ARCHITECTURE = re.compile(r"[\w.-]{1,64}", re.ASCII)
SPECIAL_ENDING = "_token_id"


@dataclass(frozen=True, slots=True, eq=False)
class Vocabulary:
    """The tokens of a model, by id, as stored (byte-level BPE writes a space as `Ġ`)."""

    model: str  # the kind of tokenizer: "gpt2" is BPE, "llama" SentencePiece
    pre: str  # how text is cut before BPE
    tokens: StringArray
    types: npt.NDArray[np.int32] | None
    merges: StringArray | None  # pairs that BPE joins, in order
    scores: npt.NDArray[np.float32] | None  # of SentencePiece's pieces
    special: Mapping[str, int]  # "bos", "eos", "eot", "unknown", … → id

    @property
    def size(self) -> int:
        return len(self.tokens)

    def token(self, index: int) -> bytes:
        return self.tokens[index]

    def special_text(self, role: str) -> str:
        """Text of a special token ("bos", "eos", …), for templates; empty if the model has none."""
        index = self.special.get(role)
        return "" if index is None else self.token(index).decode("utf-8", errors="replace")

    def first_difference(self, other: Vocabulary) -> int | None:
        """Lowest id of a token that is not the same, None if one vocabulary is the other's beginning."""
        return self.tokens.first_difference(other.tokens)

    def marked(self) -> npt.NDArray[np.int64]:
        """Ids of tokens that may be more than text: of another type than normal, of a role, or written like a tag.

        A few hundred of some 150,000, so that llama.cpp need not be asked about each token there is. Files differ in
        what they mark; llama.cpp also goes by texts, and all that it knows begin with one of these characters.
        """
        first = np.frombuffer(self.tokens.blob + bytes(9), np.uint8)[self.tokens.starts + 8]
        tagged = np.isin(first, np.frombuffer(b"<[_", np.uint8))
        if self.types is not None:
            tagged |= self.types != NORMAL
        tagged[list(self.special.values())] = True
        return np.flatnonzero(tagged)

    def is_padding(self, index: int) -> bool:
        """Whether the entry only fills the vocabulary up to a round number, so that no text leads to it."""
        marked = self.types is not None and int(self.types[index]) == UNUSED
        return marked or self.token(index).startswith(b"[PAD")


@dataclass(frozen=True, slots=True, eq=False)
class GGUFMetadata:
    path: Path
    architecture: str
    name: str
    kind: str  # general.type: "model", "adapter", "mmproj" …
    size_bytes: int
    ctx_train: int | None
    fields: Mapping[str, Any]  # scalars and short arrays (as lists); the vocabulary's arrays are kept out
    vocabulary: Vocabulary | None
    tensors: Mapping[str, Tensor]
    kinds: Mapping[str, int]  # by key the number of its type

    @property
    def quantization(self) -> str:
        """The type that most of its layers' weights have, such as Q4_K; empty if it has no layers."""
        count: Counter[int] = Counter()
        for name, tensor in self.tensors.items():
            if name.startswith("blk."):
                count[tensor.kind] += tensor.elements
        return TYPE_NAMES.get(kind := count.most_common(1)[0][0], f"type {kind}") if count else ""

    @property
    def chat_template(self) -> str | None:
        template = self.fields.get("tokenizer.chat_template")
        return template if isinstance(template, str) and template else None


def read_metadata(path: str | Path) -> GGUFMetadata:
    """Read a file's metadata in some 30 ms at 152,000 tokens; of a split model, its first file leads to the others.

    Raises ModelFileError if it is missing, unreadable, no GGUF, damaged, or ends before its tensors do.
    """
    path = Path(path)
    header = read_header(path)
    values = header.values
    parts = [header, *map(read_header, other_parts(path, values))]
    architecture = _string(path, values, "general.architecture", None)
    if not ARCHITECTURE.fullmatch(architecture):
        raise refused(path, "general.architecture", architecture, "a name of letters, digits, '.', '_' and '-'")
    context = whole_number(path, values, f"{architecture}.context_length", most=2**32 - 1)
    return GGUFMetadata(
        path=path,
        architecture=architecture,
        name=printable(_string(path, values, "general.name", path.stem), longest=LONGEST_NAME),
        kind=_string(path, values, "general.type", "model"),
        size_bytes=sum(part.size_bytes for part in parts),
        ctx_train=context,
        fields={key: _plain(value) for key, value in values.items() if _is_short(key, value)},
        vocabulary=_vocabulary(path, values),
        tensors={name: tensor for part in parts for name, tensor in part.tensors.items()},
        kinds={key: kind for key, (kind, _) in header.kinds.items()},
    )


def other_parts(path: Path, values: Mapping[str, Any]) -> list[Path]:
    """The further files of a model that was split into several. Raises ModelFileError where `path` is not its first."""
    count = whole_number(path, values, "split.count", most=MOST_PARTS) or 1
    if count < 2:
        return []
    found = PART.fullmatch(path.name)
    if found is None or int(found["count"]) != count:
        raise ModelFileError(
            f"{path} is a part of a model in {count} files, but its name does not say which",
            hint=f"give all parts the names they came with, such as MODEL-00001-of-{count:05}.gguf",
        )
    names = [f"{found['name']}-{number:05}-of-{count:05}.gguf" for number in range(1, count + 1)]
    if path.name != names[0]:
        raise ModelFileError(f"{path} is not the first part of its model", hint=f"give {path.with_name(names[0])}")
    return [path.with_name(name) for name in names[1:]]


def _vocabulary(path: Path, values: Mapping[str, Any]) -> Vocabulary | None:
    prefix = "tokenizer.ggml."
    tokens = values.get(prefix + "tokens")
    if tokens is None:
        return None
    if not isinstance(tokens, StringArray):
        raise ModelFileError(f"{path}: {prefix}tokens is no array of strings", hint=DAMAGED_HINT)
    types = values.get(prefix + "token_type")
    whole = isinstance(types, np.ndarray) and types.dtype.kind in "iu" and len(types) == len(tokens)
    if types is not None and not whole:
        raise ModelFileError(
            f"{path}: {prefix}token_type is no list of {len(tokens):,} numbers, one for each token",
            hint=DAMAGED_HINT,
        )
    special = {
        key[len(prefix) : -len(SPECIAL_ENDING)]: value
        for key, value in values.items()
        if key.startswith(prefix) and key.endswith(SPECIAL_ENDING)
        # llama.cpp too ignores ids outside the vocabulary, which some converters write for "none"
        if type(value) is int and 0 <= value < len(tokens)
    }
    return Vocabulary(
        model=_string(path, values, prefix + "model", ""),
        # files from before the key existed mean llama.cpp's default
        pre=_string(path, values, prefix + "pre", "default"),
        tokens=tokens,
        types=None if types is None else _clipped(types),
        merges=merges if isinstance(merges := values.get(prefix + "merges"), StringArray) else None,
        scores=_scores(path, values, prefix + "scores"),
        special=special,
    )


def _clipped(types: npt.NDArray[Any]) -> npt.NDArray[np.int32]:
    """Kinds of tokens are small numbers; others are none of them, whatever they are."""
    clipped: npt.NDArray[np.int32] = np.minimum(np.maximum(types, -1), 127).astype(np.int32)
    return clipped


def _scores(path: Path, values: Mapping[str, Any], key: str) -> npt.NDArray[np.float32] | None:
    scores = values.get(key)
    if scores is None:
        return None
    if not isinstance(scores, np.ndarray) or scores.dtype.kind != "f":
        raise refused(path, key, type(scores).__name__, "an array of numbers with a point")
    return scores.astype(np.float32, copy=False)


def _string(path: Path, values: Mapping[str, Any], key: str, default: str | None) -> str:
    value = values.get(key, default)
    if value is None:
        raise ModelFileError(f"{path}: {key} is missing", hint="convert the model again")
    if not isinstance(value, str):
        raise refused(path, key, value, "a text")
    return value


def _is_short(key: str, value: Any) -> bool:
    if key.startswith("tokenizer.ggml.") and key.rpartition(".")[2] in LONG_KEYS:
        return False
    return not isinstance(value, (np.ndarray, StringArray)) or len(value) <= SHORT


def _plain(value: Any) -> Any:
    if isinstance(value, StringArray):
        return [value[index].decode("utf-8", errors="replace") for index in range(len(value))]
    return value.tolist() if isinstance(value, np.ndarray) else value
