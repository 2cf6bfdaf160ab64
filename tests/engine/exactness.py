"""Is what speculation says distributed as the blend is? Replies of the bundled family against exact probabilities.

Many replies to one prompt are made with drafts. For each beginning that they have in common the tokens that came next
are counted, and compared with the probabilities that the reference in NumPy gives for them, from logits that were
decoded without drafts. Given the beginnings, counts are multinomial, so that the chi-square statistics add up.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.stats import chi2

from eft_gguf import EFT, Blend, Filter, Sampling
from eft_gguf.blend.filter import filtered_logits, log_probabilities
from eft_gguf.engine.draft_length import LIMIT, Costs
from eft_gguf.engine.speculation import Speculation

EVERYTHING = Sampling(temperature=1.0, top_k=0, top_p=1.0, min_p=0.0)
ONE = Blend()
LEAST = 5.0
"""Expected counts below this are put together, as usual for the approximation by chi-square to hold."""
NOISE = 0.01
"""By how much logits may differ, at the most."""


@dataclass(frozen=True)
class Setting:
    """How replies are made: drafts a round, prompt, dials, sampling, tokens of a reply.

    drafts: None for `auto`, with costs that have it draft much.
    """

    drafts: int | None
    prompt: str = "Is it safe to"
    blend: Blend = ONE
    sampling: Sampling = EVERYTHING
    length: int = 4


REPEATING = "Lima is the capital of Peru. Lima is the capital of Peru. Lima is the"
SETTINGS: Mapping[str, Setting] = {
    "temperature 1": Setting(3),
    "temperature 0.6, top-k 20": Setting(4, "I think", sampling=replace(EVERYTHING, temperature=0.6, top_k=20)),
    "temperature 1.5, top-p 0.9": Setting(2, "What", sampling=replace(EVERYTHING, temperature=1.5, top_p=0.9)),
    "min-p 0.05, dials 1.3 and 0.6": Setting(4, "The", Blend(1.3, 0.6), replace(EVERYTHING, min_p=0.05)),
    "two traits": Setting(3, "I think", Blend(traits={"helpful": 0.6, "cautious": 0.4})),
    "filter of untuned": Setting(3, blend=Blend(filter=Filter(untuned_floor=-7.0))),
    "filters of base and tuned": Setting(5, "The", Blend(filter=Filter(tuned_top_p=0.95, base_min_p=0.01))),
    "lengths by sureness": Setting(None, "I think"),
    "the same, temperature 0.7": Setting(None, "What", sampling=replace(EVERYTHING, temperature=0.7, top_p=0.95)),
    "looked up": Setting(3, REPEATING, Blend(0.8, 0.0), replace(EVERYTHING, temperature=1.2)),
}


def opened(setting: Setting) -> EFT:
    """The bundled family, with drafts as the setting wants them."""
    eft = EFT.bundled(speculate=setting.drafts or 1, sequences=16)
    if setting.drafts is None:
        dear, cheap = (first * (1 + 0.02 * np.arange(LIMIT + 2)) for first in (10.0, 0.5))
        dear[0] = cheap[0] = 0
        costs = Costs([dear, *[cheap] * (len(eft.members) - 1)])
        eft._engine._speculation = Speculation(eft._ensemble, costs=costs, rolls_back=[True] * len(eft.members))
    return eft


@dataclass(frozen=True)
class Outcome:
    """The test's result, and what the drafts came to. tokens: how many were generated."""

    p_value: float
    tokens: int
    cells: int
    drafted: int
    acceptance: float


def measure(eft: EFT, setting: Setting, tokens: int, *, seed: int = 1) -> Outcome:
    """Generate at least so many tokens and test them. Replies are made side by side, with seeds in a row."""
    count = -(-tokens // setting.length)
    sampling = replace(setting.sampling, max_tokens=setting.length, seed=seed)
    replies = eft.completions(setting.prompt, count, blend=setting.blend, sampling=sampling)
    following: dict[tuple[int, ...], Counter[int]] = {}
    for reply in replies:
        for place, token in enumerate(reply.tokens):
            following.setdefault(tuple(reply.tokens[:place]), Counter())[token] += 1
    statistic, freedom = 0.0, 0
    for beginning, counts in following.items():
        if sum(counts.values()) >= 4 * LEAST and (probabilities := expected(eft, setting, beginning)) is not None:
            found = chi_square(counts, probabilities)
            statistic, freedom = statistic + found[0], freedom + found[1]
    timings = [reply.timings for reply in replies]
    checked = sum(one.checked for one in timings)
    return Outcome(
        float(chi2.sf(statistic, freedom)),
        sum(len(reply.tokens) for reply in replies),
        freedom,
        sum(one.drafted for one in timings),
        sum(one.accepted for one in timings) / max(1, checked),
    )


def expected(eft: EFT, setting: Setting, beginning: Sequence[int]) -> NDArray[np.float64] | None:
    """Probabilities of the next token after a beginning of the reply, by the reference.

    None where a token is so near the bound of a truncation or a filter that rounding decides: llama.cpp's logits differ
    in the third digit between sizes of a batch.
    """
    ends = eft._ensemble.end_tokens
    *_, (_, rows) = eft.replay(setting.prompt, [*beginning, next(iter(ends))], blend=setting.blend)
    factors = eft.family.factors(setting.blend)
    members = [rows[name].copy() for name in eft.members]

    def probabilities(noise: float) -> NDArray[np.float64]:
        moved = [(row + noise * rng.standard_normal(len(row))).astype(np.float32) for row in members]
        filtered = filtered_logits(moved, factors, setting.blend.filter, eft._ensemble.untuned)
        return sampled_from(filtered, setting.sampling)

    rng = np.random.default_rng(0)
    exact = probabilities(0.0)
    for _ in range(4):
        moved = probabilities(NOISE)
        if ((moved > 0) != (exact > 0)).any() or np.abs(moved - exact).max() > 0.05:
            return None
    return exact


def sampled_from(logits: NDArray[np.float64], sampling: Sampling) -> NDArray[np.float64]:
    """Top-k, top-p, min-p, temperature, in llama.cpp's order, on whole vectors."""
    logs = log_probabilities(logits)
    order = np.argsort(-logs, kind="stable")
    kept = np.zeros(len(logs), bool)
    kept[order[: sampling.top_k or len(order)]] = True
    probabilities = np.where(kept, np.exp(logs), 0.0)
    probabilities /= probabilities.sum()
    if sampling.top_p < 1:
        reached = np.cumsum(probabilities[order])
        kept[order[int(np.searchsorted(reached, sampling.top_p)) + 1 :]] = False
    kept &= logs >= logs.max() + np.log(sampling.min_p) if sampling.min_p else True
    powers = np.where(kept, np.exp((logs - logs.max()) / sampling.temperature), 0.0)
    return powers / powers.sum()


def chi_square(counts: Counter[int], probabilities: NDArray[np.float64]) -> tuple[float, int]:
    """(statistic, degrees of freedom); infinite where something came that cannot."""
    total = sum(counts.values())
    observed = np.bincount(list(counts.elements()), minlength=len(probabilities)).astype(float)
    if observed[probabilities == 0].any():
        return np.inf, 1
    means = probabilities * total
    large = means >= LEAST
    rest = means[~large].sum()
    statistic = float(((observed[large] - means[large]) ** 2 / means[large]).sum())
    cells = int(large.sum())
    if rest >= LEAST:
        statistic += float((observed[~large].sum() - rest) ** 2 / rest)
        cells += 1
    elif cells:
        # Too little is expected of all others together: they join the rarest of the rest.
        rarest = np.flatnonzero(large)[np.argmin(means[large])]
        mean = means[rarest]
        statistic -= float((observed[rarest] - mean) ** 2 / mean)
        statistic += float((observed[rarest] + observed[~large].sum() - mean - rest) ** 2 / (mean + rest))
    return statistic, max(0, cells - 1)
