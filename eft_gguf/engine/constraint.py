"""What a reply must follow, token by token: one interface, whatever library knows the rules.

`guidance.py` has JSON schemas, regular expressions and Lark grammars, `gbnf.py` llama.cpp's own grammars. Nobody else
knows which it is.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from eft_gguf.engine.llama import Model
from eft_gguf.engine.sampling import Sampling


class Constraint(Protocol):
    """Follows one reply. Ids are below `n_vocab`; a reply is whole once an end token was taken.

    quick: whether a mask takes microseconds, so that drafts may be made under it, too.
    """

    quick: bool

    def mask(self) -> NDArray[np.bool_]:
        """By token id, shape (n_vocab,), whether it may come next; a view until the next call."""

    def allows(self, token: int) -> bool:
        """Whether `token` may come next."""

    def take(self, token: int) -> None:
        """Go on past `token`, which must be allowed."""

    def roll_back(self, count: int) -> None:
        """Forget the last `count` tokens taken."""

    def forced(self) -> list[int]:
        """Tokens that write what must come next, as the tokenizer would cut it; empty where there is a choice."""

    def may_end(self) -> bool:
        """Whether the reply may end here."""

    def close(self) -> None:
        """Free what it holds."""


def constraint_of(sampling: Sampling, model: Model, n_vocab: int, *, drawn: bool = True) -> Constraint | None:
    """What the options ask a reply to follow; None for nothing. Raises OptionError for what is refused.

    drawn: a reply is drawn by it, so that objects have the properties that a schema names and no others (closing.py).
    """
    # Imported here because most replies need neither.
    if sampling.grammar is not None:
        from eft_gguf.engine.gbnf import GBNF

        return GBNF(model, n_vocab, sampling.grammar)
    if sampling.json_schema is not None or sampling.regex is not None or sampling.lark is not None:
        from eft_gguf.engine.guidance import Guidance

        return Guidance(model, n_vocab, sampling, drawn)
    return None


def follows(constraint: Constraint, model: Model, text: str) -> bool:
    """Whether a whole reply may be exactly `text`. Takes its tokens: the constraint is of no use afterwards."""
    tokens = cut(model, text)
    if b"".join(map(model.piece, tokens)) != text.encode():
        return False
    for token in tokens:
        if not constraint.allows(token):
            return False
        constraint.take(token)
    return constraint.may_end()


def cut(model: Model, text: str) -> list[int]:
    """The tokens that write exactly `text`, or come closest where the vocabulary has none that do."""
    wanted = text.encode()
    tokens = model.tokenize(text, special=False)
    if b"".join(map(model.piece, tokens)) == wanted:
        return tokens
    # SentencePiece puts a space before a text; after a line break it does not.
    after = model.tokenize("\n" + text, special=False)
    for start in range(1, len(after)):
        if b"".join(map(model.piece, after[start:])) == wanted:
            return after[start:]
    return tokens
