"""llama.cpp's samplers: SamplerChain and Grammar. Only this file and llama.py touch its C functions."""

from __future__ import annotations

import ctypes
import os
import re
import tempfile
import threading
from collections.abc import Callable, Mapping
from typing import TypeVar

import llama_cpp.llama_cpp as lib
import numpy as np
from numpy.typing import NDArray

from eft_gguf.blend.layout import CANDIDATE
from eft_gguf.engine.llama import Model
from eft_gguf.errors import OptionError

DRY_BREAKERS = ("\n", ":", '"', "*")
"""Texts across which DRY looks for no repetition, llama.cpp's default."""

LONGEST_GRAMMAR, DEEPEST_GRAMMAR = 200_000, 1000
"""Characters and open brackets that a grammar may have: llama.cpp's parser calls itself, and ends the process on deep
ones."""

_STDERR = threading.Lock()
"""Standard error is the process's: two that take it at once would lose it for good."""

T = TypeVar("T")


class _Array:
    """Candidates as llama.cpp's samplers take them."""

    def __init__(self) -> None:
        self._struct = lib.llama_token_data_array()
        self._reference = ctypes.byref(self._struct)
        # The struct's first field, as a number: pointers take ctypes longer to make than most samplers to run.
        self._address = ctypes.c_size_t.from_buffer(self._struct)

    def apply(self, sampler: object, candidates: NDArray[np.void]) -> tuple[int, int]:
        """Run a sampler over `candidates`, which it reorders: (place of the first that it leaves, their number)."""
        struct, address = self._struct, candidates.ctypes.data
        self._address.value = address
        struct.size, struct.selected, struct.sorted = len(candidates), -1, False
        lib.llama_sampler_apply(sampler, self._reference)
        # XTC moves the array's beginning past what it leaves out.
        return (self._address.value - address) // candidates.itemsize, struct.size


class SamplerChain:
    """llama.cpp's samplers in a row: what they leave is the distribution that a token is drawn from.

    Some remember chosen tokens, and XTC its random state: each sequence has its own.
    """

    def __init__(self) -> None:
        self._array = _Array()
        self._chain = lib.llama_sampler_chain_init(lib.llama_sampler_chain_default_params())
        self._finite_only = False

    def add_logit_bias(self, n_vocab: int, bias: Mapping[int, float]) -> None:
        """Add `bias` to the logits of tokens by id."""
        entries = (lib.llama_logit_bias * len(bias))(*bias.items())
        self._add(lib.llama_sampler_init_logit_bias(n_vocab, len(bias), entries))

    def add_penalties(self, n_vocab: int, *, last: int, repeat: float, frequency: float, presence: float) -> None:
        """Of the last `last` tokens: divide logits by `repeat`, take off `frequency` each time and `presence` once."""
        self._add(lib.llama_sampler_init_penalties(n_vocab, last, repeat, frequency, presence))

    def add_dry(self, model: Model, *, multiplier: float, base: float, allowed: int, last: int) -> None:
        """DRY: take multiplier · base^(length − allowed) off a token that would go on with a repetition."""
        texts = (ctypes.c_char_p * len(DRY_BREAKERS))(*(text.encode() for text in DRY_BREAKERS))
        self._add(lib.llama_sampler_init_dry(model.vocab, multiplier, base, allowed, last, texts, len(DRY_BREAKERS)))

    def add_top_n_sigma(self, n: float) -> None:
        """Keep tokens whose logit is within n standard deviations of the largest (arXiv 2411.07641)."""
        self._add(lib.llama_sampler_init_top_n_sigma(n))

    def add_top_k(self, k: int) -> None:
        """Keep the k most likely tokens."""
        self._add(lib.llama_sampler_init_top_k(k))

    def add_typical(self, p: float) -> None:
        """Keep tokens about as surprising as the distribution is on average, up to mass p (arXiv 2202.00666)."""
        # Its average is no number where one candidate is impossible: 0 · −inf.
        self._finite_only = True
        self._add(lib.llama_sampler_init_typical(p, 1))

    def add_top_p(self, p: float) -> None:
        """Keep the smallest set of most likely tokens whose probability reaches p."""
        self._add(lib.llama_sampler_init_top_p(p, 1))

    def add_min_p(self, p: float) -> None:
        """Keep tokens at least p times as likely as the most likely one."""
        self._add(lib.llama_sampler_init_min_p(p, 1))

    def add_xtc(self, probability: float, threshold: float, seed: int) -> None:
        """With `probability`, drop all tokens of at least `threshold` but the least likely of them."""
        self._add(lib.llama_sampler_init_xtc(probability, threshold, 1, seed))

    def add_temperature(self, temperature: float) -> None:
        """Divide all logits by `temperature`."""
        self._add(lib.llama_sampler_init_temp(temperature))

    def _add(self, sampler: object) -> None:
        if not sampler:
            raise OptionError("llama.cpp refused a sampling option")
        lib.llama_sampler_chain_add(self._chain, sampler)

    def keep(self, candidates: NDArray[np.void]) -> NDArray[np.void]:
        """Run the chain over `candidates` (dtype CANDIDATE), which it reorders, and return those that it leaves."""
        if self._finite_only:
            possible = np.isfinite(candidates["logit"])
            count = int(possible.sum())
            if 0 < count < len(candidates):
                candidates[:count] = candidates[possible]
                candidates = candidates[:count]
        first, size = self._array.apply(self._chain, candidates)
        return candidates[first : first + size]

    def accept(self, token: int) -> None:
        """Tell the chain that `token` was taken."""
        lib.llama_sampler_accept(self._chain, token)

    def close(self) -> None:
        """Free the chain and its samplers."""
        if self._chain:
            lib.llama_sampler_free(self._chain)
            self._chain = None


class Grammar:
    """A GBNF grammar that a reply must follow, from its start symbol `root`. Raises OptionError where it is none."""

    def __init__(self, model: Model, gbnf: str) -> None:
        self._array = _Array()
        self._one = np.zeros(1, CANDIDATE)
        self._sampler = None
        _require_moderate(gbnf)
        self._sampler, said = _with_stderr(lambda: lib.llama_sampler_init_grammar(model.vocab, gbnf.encode(), b"root"))
        if not self._sampler:
            reason = re.search(r"error parsing grammar: (.{1,80})", said)
            raise OptionError(
                "the grammar does not parse as GBNF" + (f": {reason[1]}" if reason else ""),
                hint='it needs rules such as root ::= "yes" | "no" — see grammars/README.md of llama.cpp',
            )

    def allows(self, token: int) -> bool:
        """Whether the reply may go on with `token`. Some 7 µs, against milliseconds for `restrict`."""
        self._one[0] = (token, 0.0, 0.0)
        self._array.apply(self._sampler, self._one)
        return bool(np.isfinite(self._one[0]["logit"]))

    def restrict(self, candidates: NDArray[np.void]) -> None:
        """Set the logits of all tokens that may not come next to −inf."""
        self._array.apply(self._sampler, candidates)

    def accept(self, token: int) -> None:
        """Go on past `token`, which `allows` must have allowed: llama.cpp ends the process over any other."""
        lib.llama_sampler_accept(self._sampler, token)

    def close(self) -> None:
        """Free the grammar."""
        if self._sampler:
            lib.llama_sampler_free(self._sampler)
            self._sampler = None


def _require_moderate(gbnf: str) -> None:
    """Raise OptionError for a grammar on which llama.cpp's parser would run out of stack."""
    if len(gbnf) > LONGEST_GRAMMAR:
        raise OptionError(
            f"the grammar has {len(gbnf):,} characters, and {LONGEST_GRAMMAR:,} are the most", hint="make it simpler"
        )
    depth = deepest = 0
    # Without texts, sets of characters and comments, in which brackets mean themselves.
    for bracket in re.findall(r"[()]", re.sub(r'"(?:\\.|[^"\\])*"|\[(?:\\.|[^\]\\])*\]|#.*', "", gbnf)):
        depth += 1 if bracket == "(" else -1
        deepest = max(deepest, depth)
    if deepest > DEEPEST_GRAMMAR:
        raise OptionError(
            f"the grammar has {deepest:,} brackets in one another, and {DEEPEST_GRAMMAR:,} are the most",
            hint="make it simpler",
        )


def _with_stderr(call: Callable[[], T]) -> tuple[T, str]:
    """What a call of llama.cpp's gives, and what it wrote to standard error: its grammar parser tells errors there."""
    with _STDERR:
        return _with_own_stderr(call)


def _with_own_stderr(call: Callable[[], T]) -> tuple[T, str]:
    try:
        kept = os.dup(2)
    except OSError:  # a program without standard error
        return call(), ""
    try:
        with tempfile.TemporaryFile() as written:
            os.dup2(written.fileno(), 2)
            try:
                result = call()
            finally:
                os.dup2(kept, 2)
            written.seek(0)
            return result, written.read().decode("utf-8", "replace")
    finally:
        os.close(kept)
