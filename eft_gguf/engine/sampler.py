"""From blended logits to a token, for one sequence: greedy choice, llama.cpp's sampler chain, grammar."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from eft_gguf.blend import kernels
from eft_gguf.blend.equation import log_softmax
from eft_gguf.engine.chain import Grammar, SamplerChain
from eft_gguf.engine.llama import Model
from eft_gguf.engine.sampling import Sampling
from eft_gguf.errors import DecodeError, OptionError

LAST_CHOICE = -1e9
"""A logit below any that a model gives, yet above −inf."""


@dataclass(frozen=True, slots=True)
class Alternatives:
    """Natural log-probabilities under the blend, before sampling options: of the chosen token and the likeliest."""

    chosen: float
    tokens: list[int]
    log_probabilities: list[float]


class Sampler:
    """Draws the tokens of one sequence, from vocabularies of which `n_vocab` entries are shared.

    prompt: ids that penalties look back on.  `seed` is the one in use, drawn where the options name none.
    Raises OptionError for a grammar or schema that is none, and for a bias on a token that does not exist.
    """

    def __init__(self, sampling: Sampling, model: Model, n_vocab: int, prompt: Sequence[int] = ()) -> None:
        self.seed = secrets.randbelow(2**32) if sampling.seed is None else int(sampling.seed)
        self.logprobs = sampling.logprobs
        self._n_vocab = n_vocab
        unknown = next((token for token in sampling.logit_bias if token >= n_vocab), None)
        if unknown is not None:
            raise OptionError(
                f"logit_bias names token {unknown}, the vocabulary has {n_vocab:,}",
                hint=f"token ids go from 0 to {n_vocab - 1}",
            )
        gbnf = sampling.gbnf()
        self._grammar = None if gbnf is None else Grammar(model, gbnf)
        self._chain = _chain(sampling, self.seed, model, n_vocab, prompt)
        self._top_k = _leading_top_k(sampling)
        self._candidates = np.zeros(n_vocab if self._chain or self._grammar else 0, kernels.CANDIDATE)

    def sample(self, rows: kernels.Rows, factors: NDArray[np.float64]) -> int:
        """The next token from the blend of `rows`, each of shape (n_vocab,) or longer, weighted by `factors`."""
        token = self._draw(rows, factors, restricted=False)
        # The whole vocabulary costs the grammar milliseconds, one token microseconds: so it is asked about the
        # token that was drawn, and only where it refuses is one drawn from what it allows. The outcome has the
        # distribution of a draw among the allowed tokens: p + (1 − a)·p/a = p/a for allowed mass a.
        if self._grammar is not None and not self._grammar.allows(token):
            token = self._draw(rows, factors, restricted=True)
            if not self._grammar.allows(token):
                raise DecodeError("logit_bias forbids all that the grammar allows", hint="give one of them up")
        if self._grammar is not None:
            self._grammar.accept(token)
        if self._chain is not None:
            self._chain.accept(token)
        return token

    def alternatives(self, rows: kernels.Rows, factors: NDArray[np.float64], token: int) -> Alternatives:
        """Log-probabilities of `token` and of the `logprobs` most likely tokens, likeliest first."""
        blended = np.empty(self._n_vocab, np.float32)
        kernels.blend_into(rows, factors, blended)
        logs = log_softmax(blended.astype(np.float64))
        count = min(self.logprobs or 0, self._n_vocab)
        best = np.argpartition(-logs, max(0, count - 1))[:count]
        best = best[np.argsort(-logs[best], kind="stable")]
        return Alternatives(float(logs[token]), best.tolist(), logs[best].tolist())

    def close(self) -> None:
        """Free the sampler chain and the grammar."""
        for owned in (self._chain, self._grammar):
            if owned is not None:
                owned.close()

    def _draw(self, rows: kernels.Rows, factors: NDArray[np.float64], *, restricted: bool) -> int:
        if self._chain is None and not restricted:
            return int(kernels.blend_argmax(rows, factors, self._n_vocab))
        if self._chain is not None and self._top_k and not restricted:
            count = kernels.blend_top(rows, factors, self._top_k, self._candidates)
            return self._chain.choose(self._candidates[:count])
        kernels.blend_candidates(rows, factors, self._candidates)
        if restricted and self._grammar is not None:
            # A filter or a bias may have ruled out all that the grammar allows. The grammar must be kept, so what is
            # ruled out stays possible here, as a last choice.
            logits = self._candidates["logit"]
            logits[~np.isfinite(logits)] = LAST_CHOICE
            self._grammar.restrict(self._candidates)
            if not np.isfinite(logits).any():
                raise DecodeError("the grammar allows no further token", hint="mend the grammar")
        if self._chain is None:
            return int(self._candidates["logit"].argmax())
        return self._chain.choose(self._candidates)


def _chain(sampling: Sampling, seed: int, model: Model, n_vocab: int, prompt: Sequence[int]) -> SamplerChain | None:
    """llama.cpp's samplers in the order of its own programs. None where greedy choice needs no chain at all."""
    greedy = sampling.temperature == 0
    repeat, frequency, presence = sampling.repeat_penalty, sampling.frequency_penalty, sampling.presence_penalty
    penalised = repeat != 1 or frequency != 0 or presence != 0
    looks_back = penalised or sampling.dry_multiplier > 0
    if greedy and not looks_back and not sampling.logit_bias:
        return None
    chain = SamplerChain()
    try:
        if sampling.logit_bias:
            chain.add_logit_bias(n_vocab, sampling.logit_bias)
        if penalised:
            window = int(sampling.penalty_window)
            chain.add_penalties(n_vocab, last=window, repeat=repeat, frequency=frequency, presence=presence)
        if sampling.dry_multiplier > 0:
            chain.add_dry(
                model,
                multiplier=sampling.dry_multiplier,
                base=sampling.dry_base,
                allowed=int(sampling.dry_allowed_length),
                last=model.ctx_train,
            )
        if looks_back:
            for token in prompt:
                chain.accept(token)
        if greedy:
            chain.add_greedy()
        else:
            _add_truncation(chain, sampling, seed)
            chain.add_choice(seed)
    except BaseException:
        chain.close()
        raise
    return chain


def _leading_top_k(sampling: Sampling) -> int:
    """The k of a chain that begins with top-k: it needs no other candidates than the k most likely. 0 of any other."""
    alters = (
        sampling.logit_bias
        or sampling.repeat_penalty != 1
        or sampling.frequency_penalty
        or sampling.presence_penalty
        or sampling.dry_multiplier > 0
        or sampling.top_n_sigma > 0
    )
    return 0 if alters or sampling.temperature == 0 else int(sampling.top_k)


def _add_truncation(chain: SamplerChain, sampling: Sampling, seed: int) -> None:
    if sampling.top_n_sigma > 0:
        chain.add_top_n_sigma(sampling.top_n_sigma)
    if sampling.top_k:
        chain.add_top_k(int(sampling.top_k))
    if sampling.typical_p < 1:
        chain.add_typical(sampling.typical_p)
    if sampling.top_p < 1:
        chain.add_top_p(sampling.top_p)
    if sampling.min_p > 0:
        chain.add_min_p(sampling.min_p)
    if sampling.xtc_probability > 0:
        chain.add_xtc(sampling.xtc_probability, sampling.xtc_threshold, seed)
    if sampling.temperature != 1:
        chain.add_temperature(sampling.temperature)
