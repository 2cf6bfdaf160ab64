"""Log-probabilities in the two forms that OpenAI's clients know."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from eft_gguf.server.protocol import Piece, Token

IMPOSSIBLE = -9999.0
"""What stands for −inf, which JSON does not have: as OpenAI does."""


def chat_logprob(piece: Piece) -> dict[str, Any]:
    """Of a chat's token: its text, bytes, log-probability, and the likeliest in its place."""
    assert piece.token is not None
    return {**_named(piece.token), "top_logprobs": [_named(other) for other in piece.likeliest]}


class LegacyLogprobs:
    """Of a plain completion: lists, one entry a token. offset: characters before the first."""

    def __init__(self, offset: int = 0) -> None:
        self.offset = offset
        self.tokens: list[str] = []
        self.token_logprobs: list[float | None] = []
        self.top_logprobs: list[dict[str, float] | None] = []
        self.text_offset: list[int] = []

    def add(self, token: Token, likeliest: Sequence[Token]) -> None:
        """The next token; NaN for one that nothing stands before."""
        first = math.isnan(token.logprob)
        text = _text(token)
        self.tokens.append(text)
        self.token_logprobs.append(None if first else _number(token.logprob))
        self.top_logprobs.append(None if first else {_text(other): _number(other.logprob) for other in likeliest})
        self.text_offset.append(self.offset)
        self.offset += len(text)

    def plain(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "tokens": self.tokens,
            "token_logprobs": self.token_logprobs,
            "top_logprobs": self.top_logprobs,
            "text_offset": self.text_offset,
        }


def _named(token: Token) -> dict[str, Any]:
    return {"token": _text(token), "logprob": _number(token.logprob), "bytes": list(token.data)}


def _text(token: Token) -> str:
    return token.data.decode("utf-8", "replace")


def _number(logprob: float) -> float:
    return round(logprob, 6) if math.isfinite(logprob) else IMPOSSIBLE
