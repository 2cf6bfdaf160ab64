"""From blended logits to a token, for one sequence: constraint, greedy choice, llama.cpp's sampler chain, drafts.

llama.cpp's chain leaves the tokens that may be drawn and their logits; the draw itself is made here, for a draft is
accepted by probabilities, not by a token. A random number goes by seed, position and purpose (randomness.py).
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from eft_gguf.blend.compiled import drawing_kernels, kernels, log_mass
from eft_gguf.blend.equation import log_softmax
from eft_gguf.engine.chain import SamplerChain
from eft_gguf.engine.constraint import constraint_of
from eft_gguf.engine.llama import Model
from eft_gguf.engine.randomness import Purpose, uniform
from eft_gguf.engine.sampling import Sampling
from eft_gguf.errors import DecodeError, OptionError

LAST_CHOICE = -1e9
"""A logit below any that a model gives, yet above −inf."""


_ALONE = np.ones(1)
"""The factor of a single row."""


@dataclass(frozen=True, slots=True)
class Alternatives:
    """Natural log-probabilities under the blend, before sampling options: of the chosen token and the likeliest."""

    chosen: float
    tokens: list[int]
    log_probabilities: list[float]


@dataclass(frozen=True, slots=True)
class Draft:
    """A token proposed before the blend is known, and what it was drawn from: `ids`, each with its probability.

    sureness: how sure whoever proposes it is of what comes: the largest probability that it gives to any token.
    looked_up: whether it comes from the text itself, and not from a model.  forced: whether it writes what a constraint
    leaves no choice of.
    """

    token: int
    ids: NDArray[np.int32]
    probabilities: NDArray[np.float32]
    sureness: float = 1.0
    looked_up: bool = False
    forced: bool = False

    @classmethod
    def certain(cls, token: int, sureness: float = 1.0, *, looked_up: bool = False, forced: bool = False) -> Draft:
        """A token that nothing else could have come in place of."""
        return cls(token, np.array([token], np.int32), np.ones(1, np.float32), sureness, looked_up, forced)


class Sampler:
    """Draws the tokens of one sequence, from vocabularies of which `n_vocab` entries are shared.

    prompt: ids that penalties look back on.  `seed` is the one in use, drawn where the options name none.
    `unfiltered`: rows and factors of the next token's blend before a filter, None without one. A constraint falls back
    on it where the filter has ruled out all that it allows.
    Raises OptionError for a constraint that cannot be followed, and for a bias on a token that does not exist.

    A constraint comes first: tokens that it forbids are out of the blend before truncation and temperature, so that
    top-p 0.9 means 0.9 of what is allowed. Drafts are made under it, and checked against what it leaves of the blend.
    """

    def __init__(self, sampling: Sampling, model: Model, n_vocab: int, prompt: Sequence[int] = ()) -> None:
        self.seed = secrets.randbelow(2**32) if sampling.seed is None else int(sampling.seed)
        self.logprobs = sampling.logprobs
        self._n_vocab = n_vocab
        unknown = next((token for token in sampling.logit_bias if token >= n_vocab), None)
        if unknown is not None:
            raise OptionError(f"logit_bias names token {unknown}, the vocabulary has {n_vocab:,}")
        self._constraint = constraint_of(sampling, model, n_vocab)
        # Tokens that the constraint was led past for drafts, beyond those that were drawn.
        self._ahead: list[int] = []
        self._drafted: list[int] = []
        self._greedy = sampling.temperature == 0
        self._chain = _chain(sampling, self.seed, model, n_vocab, prompt)
        self._draft_chain: SamplerChain | None = None
        self._sampling = sampling
        self._top_k = _leading_top_k(sampling)
        self._drawn = 0
        self._room: _Room | None = None
        self.unfiltered: tuple[kernels.Rows, NDArray[np.float64]] | None = None

    @property
    def greedy(self) -> bool:
        """Whether the likeliest token is taken each time."""
        return self._greedy

    def sample(self, rows: kernels.Rows, factors: NDArray[np.float64]) -> int:
        """The next token from the blend of `rows`, each of shape (n_vocab,) or longer, weighted by `factors`."""
        return self._taken(self._draw(self._left(*self._allowed(rows, factors)), Purpose.TOKEN))

    def forced(self) -> list[int]:
        """Tokens that a constraint leaves no choice of, from the next one on, as the tokenizer would cut them."""
        if self._constraint is None:
            return []
        self._rewind(0)
        return self._constraint.forced()

    def check(self, draft: Draft, rows: kernels.Rows, factors: NDArray[np.float64]) -> tuple[int, float]:
        """(token, overlap): the next token from the blend, which is the draft's as often as that can be.

        Distributed as what `sample` gives, whatever the draft was drawn from; blend/drawing.py has the proof.
        overlap: how likely the draft was to be taken, before it was drawn; 0 or 1 with a greedy choice.
        """
        left = self._left(*self._allowed(rows, factors))
        overlap = 0.0
        if self._greedy or isinstance(left, int):
            token = self._draw(left, Purpose.TOKEN)
        else:
            token, _, overlap = drawing_kernels.verify(
                *self._distribution(left),
                draft.ids,
                draft.probabilities,
                draft.token,
                uniform(self.seed, self._drawn, Purpose.ACCEPT),
                uniform(self.seed, self._drawn, Purpose.TOKEN),
                self._working_room().dense,
            )
        token = self._taken(int(token))
        return token, float(token == draft.token) if self._greedy else overlap

    def draft(self, row: NDArray[np.float32], ahead: int) -> Draft:
        """A token for the position `ahead` of the next one, drawn from one model's logits.

        With the truncation and temperature of the reply, and under its constraint where that is quick, but without what
        looks back on it (penalties, DRY) or draws for itself (XTC): any distribution that a draft comes from is made
        good for.
        """
        row = self._masked_ahead(row, ahead)
        if self._greedy:
            token = int(kernels.blend_argmax((row,), _ALONE, self._n_vocab))
            self._drafted.append(token)
            return Draft.certain(token, math.exp(row[token] - log_mass(row[: self._n_vocab])))
        if self._draft_chain is None:
            self._draft_chain = SamplerChain()
            _add_truncation(self._draft_chain, self._sampling)
        candidates = self._working_room().candidates
        if self._sampling.top_k and not self._sampling.top_n_sigma:
            candidates = candidates[: kernels.blend_top((row,), _ALONE, int(self._sampling.top_k), candidates)]
        else:
            kernels.blend_candidates((row,), _ALONE, candidates)
        ids, probabilities = self._distribution(self._draft_chain.keep(self._finite(candidates)))
        place = drawing_kernels.draw(probabilities, uniform(self.seed, self._drawn + ahead, Purpose.DRAFT))
        self._drafted.append(int(ids[place]))
        return Draft(int(ids[place]), ids.copy(), probabilities.copy(), float(probabilities.max(initial=0.0)))

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
        """Free the sampler chain and the constraint."""
        for owned in (self._chain, self._draft_chain, self._constraint):
            if owned is not None:
                owned.close()

    def _left(self, rows: kernels.Rows, factors: NDArray[np.float64]) -> NDArray[np.void] | int:
        """The candidates that the chain leaves, or the one token where greedy choice needs no chain."""
        if self._chain is None:
            return int(kernels.blend_argmax(rows, factors, self._n_vocab))
        candidates = self._working_room().candidates
        if self._top_k:
            candidates = candidates[: kernels.blend_top(rows, factors, self._top_k, candidates)]
        else:
            kernels.blend_candidates(rows, factors, candidates)
        left = self._chain.keep(self._finite(candidates))
        if self._constraint is not None and not np.isfinite(left["logit"]).any():
            raise DecodeError("logit_bias forbids all that the grammar allows", hint="give one of them up")
        return left

    def _allowed(self, rows: kernels.Rows, factors: NDArray[np.float64]) -> tuple[kernels.Rows, NDArray[np.float64]]:
        """The rows and factors, with −inf in the first row for what the constraint forbids. The rows are left alone."""
        if self._constraint is None:
            return rows, factors
        self._rewind(0)
        if self._greedy and self._chain is None:
            # The likeliest of all is the likeliest of those allowed, if it is one: no mask is needed then.
            likeliest = int(kernels.blend_argmax(rows, factors, self._n_vocab))
            if _finite_at(rows, likeliest) and self._constraint.allows(likeliest):
                return rows, factors
        mask = self._constraint.mask()
        if not mask.any():
            raise DecodeError("the grammar allows no further token", hint="mend the grammar")
        for found, weights in ((rows, factors), self.unfiltered or (rows, factors)):
            masked = (self._masked(found[0], mask), *found[1:])
            if _finite_at(masked, int(kernels.blend_argmax(masked, weights, self._n_vocab))):
                return masked, weights
        # A filter or a model may have ruled out all that is allowed. The constraint must be kept, so what is ruled out
        # stays possible here, as a last choice.
        return (np.where(mask, np.float32(LAST_CHOICE), np.float32(-np.inf)),), _ALONE

    def _masked(self, row: NDArray[np.float32], mask: NDArray[np.bool_]) -> NDArray[np.float32]:
        room = self._working_room().masked
        np.copyto(room, row[: self._n_vocab])
        np.putmask(room, ~mask, -np.inf)
        return room

    def _masked_ahead(self, row: NDArray[np.float32], ahead: int) -> NDArray[np.float32]:
        """A drafter's row under the constraint at the place `ahead`, led past the drafts before it."""
        del self._drafted[ahead:]
        if self._constraint is None or not self._constraint.quick or len(self._drafted) < ahead:
            return row
        self._rewind(ahead)
        for token in self._drafted[len(self._ahead) :]:
            if not self._constraint.allows(token):
                return row
            self._constraint.take(token)
            self._ahead.append(token)
        mask = self._constraint.mask()
        masked = self._masked(row, mask)
        return masked if np.isfinite(masked).any() else row

    def _rewind(self, ahead: int) -> None:
        """Take the constraint back to the place `ahead` of the next token."""
        if len(self._ahead) > ahead:
            assert self._constraint is not None
            self._constraint.roll_back(len(self._ahead) - ahead)
            del self._ahead[ahead:]

    def _finite(self, candidates: NDArray[np.void]) -> NDArray[np.void]:
        """Without what the constraint forbids: samplers count on finite logits."""
        if self._constraint is None:
            return candidates
        finite = candidates[np.isfinite(candidates["logit"])]
        return finite if len(finite) else candidates

    def _draw(self, left: NDArray[np.void] | int, purpose: Purpose) -> int:
        if isinstance(left, int):
            return left
        if self._greedy:
            return int(drawing_kernels.likeliest_of(left))
        ids, probabilities = self._distribution(left)
        return int(ids[drawing_kernels.draw(probabilities, uniform(self.seed, self._drawn, purpose))])

    def _distribution(self, left: NDArray[np.void]) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """Ids and probabilities of candidates; views until the next call."""
        room = self._working_room()
        ids, probabilities = room.ids[: len(left)], room.probabilities[: len(left)]
        drawing_kernels.softmax_of(left, ids, probabilities)
        return ids, probabilities

    def _taken(self, token: int) -> int:
        """A drawn token, on record as the next."""
        if self._constraint is not None:
            if not self._constraint.allows(token):
                raise DecodeError("the grammar allows no further token", hint="mend the grammar")
            self._constraint.take(token)
        if self._chain is not None:
            self._chain.accept(token)
        self._drafted.clear()
        self._drawn += 1
        return token

    def _working_room(self) -> _Room:
        if self._room is None:
            self._room = _Room(self._n_vocab)
        return self._room


class _Room:
    """Arrays of the vocabulary's size to work in."""

    def __init__(self, n_vocab: int) -> None:
        self.candidates = np.zeros(n_vocab, kernels.CANDIDATE)
        self.ids = np.zeros(n_vocab, np.int32)
        self.probabilities = np.zeros(n_vocab, np.float32)
        self.dense = np.zeros(n_vocab, np.float32)
        self.masked = np.zeros(n_vocab, np.float32)


def _finite_at(rows: kernels.Rows, token: int) -> bool:
    return all(math.isfinite(row[token]) for row in rows)


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
        if not greedy:
            _add_truncation(chain, sampling, xtc_seed=seed)
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


def _add_truncation(chain: SamplerChain, sampling: Sampling, *, xtc_seed: int | None = None) -> None:
    """What leaves tokens out, and the temperature; without a seed not XTC, which draws for itself."""
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
    if sampling.xtc_probability > 0 and xtc_seed is not None:
        chain.add_xtc(sampling.xtc_probability, sampling.xtc_threshold, xtc_seed)
    if sampling.temperature != 1:
        chain.add_temperature(sampling.temperature)
