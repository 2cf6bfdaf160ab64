"""Constraints by llama.cpp's own grammars (GBNF)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from eft_gguf.blend.layout import CANDIDATE
from eft_gguf.engine.chain import Grammar
from eft_gguf.engine.gbnf_limits import require_bounded
from eft_gguf.engine.llama import Model


class GBNF:
    """A grammar from its start symbol `root`. A mask over 152,000 tokens takes it 3 to 8 ms.

    Raises OptionError for a text that is no grammar, or one that llama.cpp would be busy with for very long.
    """

    quick = False

    def __init__(self, model: Model, n_vocab: int, gbnf: str) -> None:
        require_bounded(gbnf)
        self._model, self._gbnf = model, gbnf
        self._grammar = Grammar(model, gbnf)
        self._candidates = np.zeros(n_vocab, CANDIDATE)
        self._ids = np.arange(n_vocab, dtype=np.int32)
        self._taken: list[int] = []

    def mask(self) -> NDArray[np.bool_]:
        self._candidates["id"], self._candidates["logit"] = self._ids, 0
        self._grammar.restrict(self._candidates)
        allowed: NDArray[np.bool_] = np.isfinite(self._candidates["logit"])
        return allowed

    def allows(self, token: int) -> bool:
        return self._grammar.allows(token)

    def take(self, token: int) -> None:
        self._grammar.accept(token)
        self._taken.append(token)

    def roll_back(self, count: int) -> None:
        if count:
            del self._taken[-count:]
            # llama.cpp's grammars do not go back: a new one is led to the same place.
            self._grammar.close()
            self._grammar = Grammar(self._model, self._gbnf)
            for token in self._taken:
                self._grammar.accept(token)

    def forced(self) -> list[int]:
        return []

    def may_end(self) -> bool:
        return self._grammar.allows(self._model.eos)

    def close(self) -> None:
        self._grammar.close()
