"""How fast a family will be here, and whether drafting by the tuned model will pay: measured on a short reply."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from eft_gguf.blend.equation import Blend, Filter, members_needed
from eft_gguf.doctor.report import Check
from eft_gguf.eft import EFT
from eft_gguf.engine.draft_length import LIMIT, Acceptance, Costs, Prospect, best_length, round_seconds
from eft_gguf.engine.ensemble import Ensemble, Part
from eft_gguf.engine.sampling import Sampling
from eft_gguf.errors import OptionError

SIZES = (1, 2, 3, 4, 6, 8, 12, 16)
SECONDS = 2.0
"""Of measuring decodes; no pass over all sizes begins after that."""
REPLY = 32
SLOW = 3.0
"""Tokens a second below which one reads faster than it writes."""
BUSY = 0.5
"""Cores that other programs use, beyond which times are too long."""
QUESTION = "Explain in two sentences why the sky is blue."
Tick = Callable[[str], None]
"""Told what is being measured; may raise to end it."""


@dataclass(frozen=True, slots=True)
class Measured:
    """seconds: by member, of a decode of n tokens at place n.  step: of a token, besides decodes.

    acceptance: how likely a draft of the tuned model is to be taken at temperature 1, the overlap of the two
    distributions, averaged over the reply.  prompt, reply: the question, and the blend's reply as token ids.
    """

    members: tuple[str, ...]
    seconds: list[NDArray[np.float64]]
    step: float
    needed: tuple[int, ...]
    drafter: int
    recurrent: tuple[str, ...]
    acceptance: float
    prompt: list[dict[str, str]] | str
    reply: list[int]


def measure(eft: EFT, tick: Tick) -> Measured:
    """Decodes of each model, then a reply of the blend and what each model says to its tokens."""
    tick("decodes of each model")
    ensemble = eft._ensemble
    seconds = decode_seconds(ensemble, tick)
    tick("a reply")
    messages = [{"role": "user", "content": QUESTION}]
    sampling = Sampling(seed=1, temperature=0.0, max_tokens=min(REPLY, eft.ctx // 4))
    prompt: list[dict[str, str]] | str = messages
    try:
        eft.complete(messages, sampling=replace(sampling, max_tokens=2))  # loads compiled kernels
    except OptionError:  # no template, or one that refuses
        prompt = QUESTION
    completion = eft.complete(prompt, sampling=sampling)
    reply, timings = completion.tokens, completion.timings
    besides = timings.decode_seconds - sum(timings.model_seconds.values())
    step = max(0.0, besides / max(1, len(reply) - 1))
    tick("what each model says to it")
    drafter = ensemble.tuned[0]
    overlaps = []
    for _, rows in eft.replay(prompt, reply):
        blended, tuned = probabilities(rows["blend"]), probabilities(rows[eft.members[drafter]])
        overlaps.append(float(np.minimum(blended, tuned).sum()))
    needed = tuple(members_needed(eft.family.factors(Blend()), Filter()))
    recurrent = tuple(name for name, state in zip(eft.members, ensemble.recurrent, strict=True) if state)
    return Measured(eft.members, seconds, step, needed, drafter, recurrent, float(np.mean(overlaps)), prompt, reply)


def decode_seconds(ensemble: Ensemble, tick: Tick) -> list[NDArray[np.float64]]:
    """By member, seconds of a decode of n tokens at place n: the quickest of several, between sizes interpolated."""
    tokens = [token for token in ensemble.tokenizer.tokenize(QUESTION * 8, special=False) if token < ensemble.n_vocab]
    sizes = [size for size in SIZES if size <= min(ensemble.outputs, ensemble.ctx // 4)]
    best = [dict.fromkeys(sizes, np.inf) for _ in ensemble.names]
    started = time.perf_counter()
    passes = 0
    while passes < 3 and (passes < 2 or time.perf_counter() - started < SECONDS):
        for size in sizes:
            for member, found in enumerate(best):
                tick("decodes of each model")
                ensemble.forget(member, 0, 0)
                before = time.perf_counter()
                ensemble.decode(member, [Part(0, 0, [tokens[at % len(tokens)] for at in range(size)], size)])
                ensemble.rows(member)  # waits for a GPU
                found[size] = min(found[size], time.perf_counter() - before)
        passes += 1
    for member in range(len(best)):
        ensemble.forget(member, 0, 0)
    places = [0, *sizes]
    return [np.interp(np.arange(sizes[-1] + 1), places, [0.0, *found.values()]) for found in best]


def speed_check(measured: Measured, busy: float) -> Check:
    """Expected tokens a second without drafts, and which model takes most of the time."""
    single = {name: float(seconds[1]) for name, seconds in zip(measured.members, measured.seconds, strict=True)}
    used = [measured.members[member] for member in measured.needed]
    total = sum(single[name] for name in used) + measured.step
    rate = 1 / total
    evidence = [
        f"{name} alone: {1 / single[name]:.1f} tokens/s, {single[name] / total:.0%} of a token's time" for name in used
    ]
    if busy > BUSY:
        evidence.append(f"other work kept {busy:.1f} cores busy meanwhile: on a quiet machine it is faster")
    figures = {"tokens_per_second": rate, "member_seconds": single, "busy_cores": busy}
    message = f"about {rate:.1f} tokens/s, without drafts"
    if rate < SLOW:
        slowest = max(used, key=lambda name: single[name])
        remedy = f"take {slowest} at a smaller quantization or size, or put it on a GPU; measure: eft-gguf bench"
        if busy > BUSY:
            remedy = f"look again while nothing else runs; then {remedy}"
        return Check("speed", "WARN", message, tuple(evidence), remedy, figures)
    return Check("speed", "PASS", message, tuple(evidence), figures=figures)


def speculation_check(measured: Measured) -> Check:
    """Will drafts by the tuned model pay? By the model that chooses their number (engine/draft_length.py)."""
    drafter = measured.members[measured.drafter]
    stuck = [name for name in measured.recurrent if measured.members.index(name) in measured.needed]
    if stuck:
        message = f"no drafts: {', '.join(stuck)} cannot be taken back to an earlier token"
        return Check("speculation", "PASS", message, figures={"drafts": 0, "speedup": 1.0})
    costs = Costs(measured.seconds, measured.step, measured.step)
    acceptance = Acceptance(rate=min(measured.acceptance, 1.0))
    prospects = [Prospect(measured.needed, measured.drafter, LIMIT, acceptance)]
    drafts, rate = best_length(prospects, costs, LIMIT)
    plain = 1 / float(round_seconds(prospects, costs, 0)[0])
    speedup = rate / plain
    figures = {"drafts": drafts, "acceptance": measured.acceptance, "tokens_per_second": rate, "speedup": speedup}
    taken = f"taken with probability {measured.acceptance:.2f}, on a reply of {len(measured.reply)} tokens"
    evidence = (f"a draft of {drafter} is {taken}",)
    if drafts == 0 or speedup < 1.03:
        message = f"drafts by {drafter} will not pay here: what checking several tokens costs outweighs them"
        return Check("speculation", "PASS", message, evidence, figures=figures)
    message = (
        f"drafts by {drafter}, {drafts} at a time, will pay: about {rate:.1f} tokens/s, {speedup:.2f} times as many"
    )
    return Check("speculation", "PASS", message, evidence, figures=figures)


def probabilities(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """The distribution of a row of logits; tokens at −inf get 0."""
    exact = logits.astype(np.float64)
    weights = np.exp(exact - exact.max())
    return np.asarray(weights / weights.sum())
