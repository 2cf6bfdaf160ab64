"""Constraints by llguidance: JSON schemas, regular expressions and Lark grammars."""

from __future__ import annotations

import re
import weakref
from dataclasses import dataclass
from typing import Any

import llguidance
import numpy as np
from numpy.typing import NDArray

from eft_gguf.engine.closing import closed
from eft_gguf.engine.constraint import cut
from eft_gguf.engine.json_schema import prepared
from eft_gguf.engine.llama import Model
from eft_gguf.engine.patterns import require_moderate
from eft_gguf.engine.sampling import Sampling
from eft_gguf.errors import DecodeError, OptionError
from eft_gguf.models.metadata import CONTROL, NORMAL, UNKNOWN, UNUSED, read_metadata
from eft_gguf.models.token_bytes import token_bytes

LONGEST = 1_000_000
"""Characters of a schema, an expression or a grammar."""
# A reply at a high temperature could go on with white space for ever.
JSON_OPTIONS: Any = {"whitespace_flexible": True, "whitespace_pattern": r"\x20|\r?\n[\x20\t]{0,24}"}
CHECKED = 64
"""Tokens by which what the file says of all is compared with llama.cpp."""


@dataclass(frozen=True, slots=True)
class _Tokens:
    """llguidance's tokenizer for a model file, and the ids that end a reply."""

    tokenizer: Any
    ends: NDArray[np.int64]


class Guidance:
    """What `json_schema`, `regex` or `lark` of a Sampling asks for. Raises OptionError for what is refused."""

    quick = True

    def __init__(self, model: Model, n_vocab: int, sampling: Sampling, drawn: bool) -> None:
        self._model = model
        kind, grammar = _grammar(sampling, drawn)
        tokens = _tokens_of(model)
        self._ends = tokens.ends[tokens.ends < n_vocab]
        self._end_ids = frozenset(self._ends.tolist())
        self._matcher = llguidance.LLMatcher(tokens.tokenizer, grammar, log_level=0, limits=_limits())
        if self._matcher.is_error():
            raise _refusal(kind, self._matcher.get_error())
        size = tokens.tokenizer.vocab_size
        self._bits = np.zeros((max(size, n_vocab) + 31) // 32, np.uint32)
        self._computed = (size + 31) // 32 * 4
        self._n_vocab = n_vocab
        # An end token is not the matcher's: it is none of the rules' symbols.
        self._ended = 0
        self._kind = kind
        self._mask: NDArray[np.bool_] | None = None

    def mask(self) -> NDArray[np.bool_]:
        if self._mask is None:
            if not self._matcher.is_stopped() and not self._ended:
                self._matcher.unsafe_compute_mask_ptr(self._bits.ctypes.data, self._computed)
                self._require_sound()
            else:
                self._bits[:] = 0
            bits = np.unpackbits(self._bits.view(np.uint8), bitorder="little")[: self._n_vocab]
            self._mask = bits.view(np.bool_)
            self._mask[self._ends] = self.may_end()
        return self._mask

    def allows(self, token: int) -> bool:
        if token in self._end_ids:
            return self.may_end()
        return not self._ended and self._matcher.validate_tokens([token]) == 1

    def take(self, token: int) -> None:
        self._mask = None
        if token in self._end_ids:
            self._ended += 1
        elif self._matcher.try_consume_tokens([token]) != 1:
            self._require_sound()
            raise DecodeError(f"{self._kind} does not allow token {token}")

    def roll_back(self, count: int) -> None:
        self._mask = None
        ends = min(count, self._ended)
        self._ended -= ends
        if count > ends and not self._matcher.rollback(count - ends):
            self._require_sound()

    def forced(self) -> list[int]:
        if self._ended or self._matcher.is_stopped():
            return []
        found: list[int] = self._matcher.compute_ff_tokens()
        return found

    def may_end(self) -> bool:
        return not self._ended and bool(self._matcher.is_accepting())

    def close(self) -> None:
        pass

    def _require_sound(self) -> None:
        if self._matcher.is_error():
            reason = self._matcher.get_error().strip().splitlines()[0]
            raise DecodeError(f"{self._kind} is too complex to follow: {reason:.120}", hint="make it simpler")


def _grammar(sampling: Sampling, drawn: bool) -> tuple[str, str]:
    """The option's name, and the text for llguidance."""
    if sampling.json_schema is not None:
        schema = prepared(sampling.json_schema)
        schema = closed(schema) if drawn else schema
        return "json_schema", llguidance.LLMatcher.grammar_from_json_schema(schema, overrides=JSON_OPTIONS)
    kind, text = ("regex", sampling.regex) if sampling.regex is not None else ("lark", sampling.lark)
    assert text is not None
    if len(text) > LONGEST:
        raise OptionError(f"{kind} has {len(text):,} characters, and {LONGEST:,} are the most", hint="make it simpler")
    require_moderate(kind, text)
    if kind == "regex":
        return kind, llguidance.LLMatcher.grammar_from_regex(text)
    return kind, llguidance.LLMatcher.grammar_from_lark(text)


def _limits() -> Any:
    return llguidance.LLParserLimits(max_lexer_states=50_000, verbose_errors=False)


def _refusal(kind: str, reason: str) -> OptionError:
    """In our words, with the keyword in question."""
    lines = [line.strip() for line in reason.strip().splitlines() if line.strip()] or ["no reason given"]
    if kind != "json_schema":
        told = "; ".join(lines)
        return OptionError(f"{kind} cannot be followed: {told:.160}", hint=_HINTS[kind])
    for pattern, keyword in _KEYWORDS:
        if found := re.search(pattern, reason):
            name = found[1] if found.groups() else keyword
            return OptionError(
                f"json_schema has {name!r}, which cannot be followed here while a reply is drawn: {lines[0]:.120}",
                hint="leave it out, and check the reply for it",
            )
    return OptionError(
        f"json_schema is no JSON schema that can be followed: {lines[0]:.160}",
        hint='for example {"type": "object", "properties": {"answer": {"type": "string"}}}',
    )


_KEYWORDS = (
    (r'Unimplemented keys: \["([^"]*)"', ""),
    (r"oneOf constraints", "oneOf"),
    (r"Unknown format", "format"),
    (r"min/maxProperties", "minProperties"),
    (r"patternProperty", "patternProperties"),
    (r"regex parse error|lookarounds|in regex", "pattern"),
)
_HINTS = {
    "regex": "for example yes|no; look-ahead, look-behind and references back are not supported",
    "lark": 'for example start: "yes" | "no" — see docs/syntax.md of llguidance',
}


_known: weakref.WeakKeyDictionary[Model, _Tokens] = weakref.WeakKeyDictionary()
"""By model, as long as it is loaded: the tokenizer takes a while to make, and asks the model how text is cut."""


def _tokens_of(model: Model) -> _Tokens:
    if model not in _known:
        _known[model] = _read_tokens(model)
    return _known[model]


def _read_tokens(model: Model) -> _Tokens:
    """Some 0.5 s at 152,000 tokens."""
    vocabulary = read_metadata(model.path).vocabulary
    count = model.n_vocab
    tokens = None if vocabulary is None else token_bytes(vocabulary)
    types = np.full(count, NORMAL, np.int32)
    marked: list[int] = list(range(count))
    if vocabulary is not None:
        marked = vocabulary.marked().tolist()
        if vocabulary.types is not None:
            types = vocabulary.types
    if tokens is None or not _agree(model, tokens, np.flatnonzero(types == NORMAL)):
        tokens = [model.piece(token, special=True) for token in range(count)]
    ends = [token for token in marked if model.is_end(token)]
    special = set(np.flatnonzero(np.isin(types, (CONTROL, UNUSED, UNKNOWN))).tolist()) | set(ends)
    vocabulary_of = _Vocabulary(model, tokens, sorted(special), ends[0] if ends else count - 1)
    tokenizer = llguidance.LLTokenizer(llguidance.TokenizerWrapper(vocabulary_of))
    return _Tokens(tokenizer, np.array(ends, np.int64))


def _agree(model: Model, tokens: list[bytes], text: NDArray[np.int64]) -> bool:
    """Whether llama.cpp reads a sample of the tokens that are text in the same way."""
    if len(tokens) != model.n_vocab:
        return False
    sample = text[np.linspace(0, len(text) - 1, CHECKED).astype(int)].tolist() if len(text) else []
    return all(model.piece(token, special=True) == tokens[token] for token in sample)


class _Vocabulary:
    """What llguidance asks of a tokenizer."""

    bos_token_id = None

    def __init__(self, model: Model, tokens: list[bytes], special: list[int], end: int) -> None:
        self.tokens, self.special_token_ids, self.eos_token_id = tokens, special, end
        self._model = weakref.ref(model)  # the tokenizer is kept as long as the model, not the other way round

    def __call__(self, text: bytes | str) -> list[int]:
        model = self._model()
        assert model is not None
        return cut(model, text if isinstance(text, str) else text.decode("utf-8", "ignore"))
