"""From blended logits to a token: the options, and the sampler that carries them out for one sequence."""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from eft_gguf.blend import kernels
from eft_gguf.engine.llama import SamplerChain
from eft_gguf.errors import OptionError

PENALTY_WINDOW = 64
"""How many of the last tokens `repeat_penalty` looks at, llama.cpp's default."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How a reply is drawn from the blended distribution. Raises OptionError for a value outside its range.

    temperature: 0 takes the most likely token every time.  top_k: 0 keeps all.  top_p, min_p: 1 and 0 keep all.
    repeat_penalty: 1 is none.  seed: None draws one, which the timings report.  max_tokens: None goes on until the
    model ends its turn or the context is full.  stop: texts that end the reply; they are not part of it.
    """

    temperature: float = 0.7
    top_k: int = 40
    top_p: float = 0.95
    min_p: float = 0.05
    repeat_penalty: float = 1.0
    seed: int | None = None
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _require("temperature", self.temperature, lambda v: v >= 0, "0 or more")
        _require("top_k", self.top_k, lambda v: 0 <= v < 2**31 and v == int(v), "a whole number, 0 or more")
        _require("top_p", self.top_p, lambda v: 0 < v <= 1, "above 0 and at most 1")
        _require("min_p", self.min_p, lambda v: 0 <= v <= 1, "between 0 and 1")
        _require("repeat_penalty", self.repeat_penalty, lambda v: v > 0, "above 0")
        if self.seed is not None:
            _require(
                "seed",
                self.seed,
                lambda v: 0 <= v < 2**32 and v == int(v),
                "a whole number from 0 to 4294967295",
            )
        if self.max_tokens is not None:
            _require("max_tokens", self.max_tokens, lambda v: v >= 1 and v == int(v), "a whole number, 1 or more")
        if not isinstance(self.stop, tuple) or not all(isinstance(text, str) and text for text in self.stop):
            raise OptionError("stop must hold texts that are not empty", hint='for example stop=("\\n\\n",)')


class Sampler:
    """Draws the tokens of one sequence. `seed` is the one in use, drawn where the options name none."""

    def __init__(self, sampling: Sampling, n_vocab: int) -> None:
        self.seed = secrets.randbelow(2**32) if sampling.seed is None else int(sampling.seed)
        self._n_vocab = n_vocab
        self._chain = _chain(sampling, self.seed, n_vocab)

    def sample(self, rows: kernels.Rows, factors: NDArray[np.float64]) -> int:
        """The next token from the blend of `rows`, each of shape (n_vocab,) or longer, weighted by `factors`."""
        if self._chain is None:
            return int(kernels.blend_argmax(rows, factors, self._n_vocab))
        kernels.blend_candidates(rows, factors, self._chain.candidates)
        token = self._chain.choose()
        self._chain.accept(token)
        return token

    def close(self) -> None:
        """Free the sampler chain."""
        if self._chain is not None:
            self._chain.close()


def _chain(sampling: Sampling, seed: int, n_vocab: int) -> SamplerChain | None:
    """llama.cpp's samplers in the order of its own programs. None where greedy choice needs no chain at all."""
    greedy, penalty = sampling.temperature == 0, sampling.repeat_penalty != 1
    if greedy and not penalty:
        return None
    chain = SamplerChain(n_vocab)
    if penalty:
        chain.add_penalties(last=PENALTY_WINDOW, repeat=sampling.repeat_penalty)
    if greedy:
        chain.add_greedy()
        return chain
    if sampling.top_k:
        chain.add_top_k(int(sampling.top_k))
    if sampling.top_p < 1:
        chain.add_top_p(sampling.top_p)
    if sampling.min_p > 0:
        chain.add_min_p(sampling.min_p)
    if sampling.temperature != 1:
        chain.add_temperature(sampling.temperature)
    chain.add_choice(seed)
    return chain


def _require(name: str, value: float, holds: Callable[[float], bool], wanted: str) -> None:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not math.isfinite(value) or not holds(value):
        raise OptionError(f"{name} must be {wanted}, not {value!r}")
