"""How fast a family will be here, and whether drafting by the tuned model will pay.

What decodes cost is known when a family is open: it was measured then, or before and kept (engine/calibration.py). How
often drafts are taken is measured here, on one reply.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from eft_gguf.blend.equation import Filter, members_needed
from eft_gguf.doctor.report import Check
from eft_gguf.eft import EFT
from eft_gguf.engine.draft_length import LIMIT, Acceptance, Costs, Prospect, best_length, round_seconds
from eft_gguf.engine.sampling import Sampling
from eft_gguf.errors import OptionError

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
    """seconds: of one token, by member; of those that a blend needs alone.  costs: of decodes of several tokens.

    acceptance: how likely a draft of the tuned model is to be taken at temperature 1, the overlap of the two
    distributions, averaged over the reply.  prompt, reply: the question, and the blend's reply as token ids.
    stuck: members that cannot be taken back to an earlier token.
    """

    members: tuple[str, ...]
    needed: tuple[int, ...]
    drafter: int
    seconds: dict[str, float]
    costs: Costs
    stuck: tuple[str, ...]
    acceptance: float
    prompt: list[dict[str, str]] | str
    reply: list[int]


def measure(eft: EFT, tick: Tick) -> Measured:
    """A reply of the blend, and what each model says to its tokens. `eft` speculates automatically."""
    speculation = eft._speculation
    assert speculation is not None and speculation.costs is not None
    costs = speculation.costs
    prompt: list[dict[str, str]] | str = [{"role": "user", "content": QUESTION}]
    sampling = Sampling(seed=1, temperature=0.0, max_tokens=max(2, min(REPLY, eft.ctx // 4)))
    tick("a reply")
    try:
        reply = eft.complete(prompt, sampling=sampling)
    except OptionError:  # no template, or one that refuses
        prompt = QUESTION
        reply = eft.complete(prompt, sampling=sampling)
    drafter = eft._ensemble.tuned[0]
    overlaps = []
    for _, rows in eft.replay(prompt, reply.tokens):
        tick("what each model says to it")
        blended, tuned = probabilities(rows["blend"]), probabilities(rows[eft.members[drafter]])
        overlaps.append(float(np.minimum(blended, tuned).sum()))
    needed = tuple(members_needed(eft.family.factors(eft.family.blend), Filter()))
    # Models that cannot be taken back are not calibrated; no drafts are made with them, so a reply shows their costs.
    steps = max(1, len(reply.tokens) - 1)
    seconds = {
        eft.members[member]: float(costs.curves[member][1])
        or reply.timings.model_seconds.get(eft.members[member], 0.0) / steps
        for member in needed
    }
    return Measured(
        eft.members,
        needed,
        drafter,
        seconds,
        costs,
        tuple(speculation.cannot_roll_back),
        float(np.mean(overlaps)),
        prompt,
        reply.tokens,
    )


def speed_check(measured: Measured, busy: float) -> Check:
    """Expected tokens a second without drafts, and which model takes most of the time."""
    total = sum(measured.seconds.values()) + measured.costs.step
    rate = 1 / total
    evidence = [
        f"{name} alone: {1 / seconds:.1f} tokens/s, {seconds / total:.0%} of a token's time"
        for name, seconds in measured.seconds.items()
    ]
    if busy > BUSY:
        evidence.append(f"other work keeps {busy:.1f} cores busy: on a quiet machine it is faster")
    figures = {"tokens_per_second": rate, "member_seconds": measured.seconds, "busy_cores": busy}
    message = f"about {rate:.1f} tokens/s, without drafts"
    if rate < SLOW:
        slowest = max(measured.seconds, key=lambda name: measured.seconds[name])
        remedy = f"take {slowest} at a smaller quantization or size, or put it on a GPU; measure: eft-gguf bench"
        if busy > BUSY:
            remedy = f"look again while nothing else runs; then {remedy}"
        return Check("speed", "WARN", message, tuple(evidence), remedy, figures)
    return Check("speed", "PASS", message, tuple(evidence), figures=figures)


def speculation_check(measured: Measured) -> Check:
    """Will drafts by the tuned model pay? By the model that chooses their number (engine/draft_length.py)."""
    drafter = measured.members[measured.drafter]
    stuck = [name for name in measured.stuck if measured.members.index(name) in measured.needed]
    if stuck:
        message = f"no drafts: {', '.join(stuck)} cannot be taken back to an earlier token"
        return Check("speculation", "PASS", message, figures={"drafts": 0, "speedup": 1.0})
    acceptance = Acceptance(rate=min(measured.acceptance, 1.0))
    prospects = [Prospect(measured.needed, measured.drafter, LIMIT, acceptance)]
    drafts, rate = best_length(prospects, measured.costs, LIMIT)
    speedup = rate * float(round_seconds(prospects, measured.costs, 0)[0])
    figures = {"drafts": drafts, "acceptance": measured.acceptance, "tokens_per_second": rate, "speedup": speedup}
    taken = f"taken with probability {measured.acceptance:.2f}, on a reply of {len(measured.reply)} tokens"
    evidence = (f"a draft of {drafter} is {taken}",)
    if drafts == 0:
        message = f"drafts by {drafter} will not pay here: what checking several tokens costs outweighs them"
        return Check("speculation", "PASS", message, evidence, figures=figures)
    message = (
        f"drafts by {drafter}, {drafts} at a time, will pay: about {rate:.1f} tokens/s, {speedup:.2f} times as many"
    )
    return Check("speculation", "PASS", message, evidence, figures=figures)


def probabilities(logits: NDArray[np.float32] | NDArray[np.float64]) -> NDArray[np.float64]:
    """The distribution of a row of logits; tokens at −inf get 0."""
    exact = logits.astype(np.float64)
    weights = np.exp(exact - exact.max())
    return np.asarray(weights / weights.sum())
