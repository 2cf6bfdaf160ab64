"""Token by token: how far the tuned side is from the blend, where they differ, and what that means for drafts.

The paper finds that most tokens hardly differ between the small tuned model and the up-scaled one, and that a few
differ completely (Mitchell et al., arXiv 2310.12962). The tuned side is the blend at knowledge 0: the tuned model
itself, for one trait of weight 1 at behaviour 1. It is what would draft tokens for the blend to accept.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eft_gguf.blend.compiled import differences, log_mass
from eft_gguf.blend.equation import Blend, blend_logits, tuned_side
from eft_gguf.eft import EFT
from eft_gguf.engine.sampling import Sampling
from eft_gguf.errors import EFTError, OptionError
from eft_gguf.evaluation.run_file import Run
from eft_gguf.evaluation.statistics import ratio_interval
from eft_gguf.inspection import DECISIONS, who_decided

BINS = 20
"""Of the histogram of total variation, which goes from 0 to 1."""
PLACES = (0, 1, 2, 4, 8, 16, 32, 64)
"""Where a group of places in a reply begins; the first token is at 0."""
DRAFTS = (1, 2, 3, 4, 6, 8)
EXAMPLES = 8


@dataclass(frozen=True, slots=True)
class Reading:
    """One reply, token by token. variation: between tuned side and blend, 0 to 1.

    changed: the tuned side's likeliest token is not the blend's.  decided_by: as in `inspection`.  words: of changed
    ones the largest in variation: what was said up to there, what the tuned side would say, what the blend says.
    """

    variation: list[float]
    changed: list[bool]
    decided_by: list[str]
    words: tuple[str, str, str] | None


@dataclass(frozen=True, slots=True)
class Share:
    """A part of all tokens, with a 95 % interval from a bootstrap over replies: tokens of a reply hang together."""

    value: float
    low: float
    high: float
    tokens: int


@dataclass(frozen=True, slots=True)
class Tokens:
    """What all readings come to.

    mean, near, far, changed: mean total variation; shares of tokens with one below 0.1, with one above 0.5, and with
    another likeliest token.  histogram: tokens by total variation.  places: by first place of a group, mean variation
    and share changed.  drafts: by length, the share of greedily drafted tokens that are accepted, and the tokens that a
    verification yields.
    """

    replies: int
    mean: Share
    near: Share
    far: Share
    changed: Share
    histogram: list[int]
    decided: dict[str, Share]
    places: dict[int, tuple[Share, Share]]
    drafts: dict[int, tuple[float, float]]
    examples: list[tuple[str, str, str]]

    def as_dict(self) -> dict[str, Any]:
        """All figures as plain values, for JSON."""
        return {
            "replies": self.replies,
            "tokens": self.mean.tokens,
            "total_variation": {
                "mean": _plain(self.mean),
                "below 0.1": _plain(self.near),
                "above 0.5": _plain(self.far),
            },
            "changed": _plain(self.changed),
            "histogram": self.histogram,
            "decided": {name: _plain(share) for name, share in self.decided.items()},
            "places": [
                {"from": start, "total_variation": _plain(mean), "changed": _plain(changed)}
                for start, (mean, changed) in self.places.items()
            ],
            "accepted": {"sampled": round(1 - self.mean.value, 6), "greedy": round(1 - self.changed.value, 6)},
            "drafts": [
                {"length": length, "accepted": round(accepted, 6), "tokens_per_verification": round(tokens, 6)}
                for length, (accepted, tokens) in self.drafts.items()
            ],
            "examples": [dict(zip(("said", "tuned", "blend"), words, strict=True)) for words in self.examples],
        }


def read(
    eft: EFT,
    prompts: Mapping[str, Sequence[Any]],
    run: Run,
    *,
    blend: Blend,
    sampling: Sampling,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Reading]:
    """Let the blend reply to each prompt, and read the reply once more with all models. What the run holds is kept.

    prompts: messages by key.  sampling: with a seed, where it samples; each reply gets the next one.  Raises
    OptionError, with the prompt's key, where one does not fit.
    """
    missing = sum(key not in run.done for key in prompts)
    done = 0
    for number, (key, messages) in enumerate(prompts.items()):
        if key in run.done:
            continue
        own = sampling if sampling.seed is None else replace(sampling, seed=(sampling.seed + number) % 2**32)
        try:
            tokens = eft.complete(list(messages), blend=blend, sampling=own).tokens
            run.add(key, asdict(_reading(eft, messages, tokens, blend)))
        except EFTError as error:
            raise OptionError(f"prompt {key}: {error.message}", hint=error.hint) from None
        done += 1
        progress(done, missing)
    return [Reading(**run.done[key]) for key in prompts]


def _reading(eft: EFT, messages: Sequence[Any], tokens: Sequence[int], blend: Blend) -> Reading:
    factors = tuned_side(eft.family.factors(blend))
    weights = {trait.name: trait.weight for trait in eft.family.tuned} | dict(blend.traits)
    voices = ["base", *(name for name in eft.trait_names if weights[name] != 0)]
    found = Reading([], [], [], None)
    words, largest, said = None, -1.0, b""
    for token, logits in eft.replay(list(messages), tokens, blend=blend):
        whole = logits["blend"]
        side = blend_logits([logits[name] for name in eft.members], factors).astype(np.float32)
        variation = float(differences(whole, log_mass(whole), side, log_mass(side))[0])
        first, other = int(whole.argmax()), int(side.argmax())
        choices = {name: int(logits[name].argmax()) for name in voices}
        found.variation.append(round(variation, 6))
        found.changed.append(first != other)
        found.decided_by.append(who_decided(token, {**choices, "blend": first}))
        if first != other and variation > largest:
            largest, words = variation, (said, eft.bytes_of(other), eft.bytes_of(first))
        said += eft.bytes_of(token)
    if words is None:
        return found
    before, tuned, blended = (part.decode("utf-8", "replace") for part in words)
    return replace(found, words=(before, tuned, blended))


def summarise(readings: Sequence[Reading]) -> Tokens:
    """The figures of at least one reply."""
    variation = [np.array(reading.variation) for reading in readings]
    changed = [np.array(reading.changed, np.float64) for reading in readings]
    counts = np.histogram(np.concatenate(variation), bins=BINS, range=(0, 1))[0]
    longest = max(map(len, variation))
    starts = [start for start in PLACES if start < longest]
    parts = [slice(start, end) for start, end in zip(starts, [*starts[1:], longest], strict=True)]
    examples: dict[tuple[str, str], tuple[str, str, str]] = {}
    for reading in sorted(readings, key=lambda one: -max(_of_changed(one), default=0.0)):
        if reading.words:
            said, tuned, blended = reading.words
            examples.setdefault((tuned, blended), (said, tuned, blended))
    return Tokens(
        replies=len(readings),
        mean=_share(variation),
        near=_share([one < 0.1 for one in variation]),
        far=_share([one > 0.5 for one in variation]),
        changed=_share(changed),
        histogram=[int(count) for count in counts],
        decided={
            name: _share([np.array([by == name for by in reading.decided_by]) for reading in readings])
            for name in DECISIONS
        },
        places={
            start: (_share([one[part] for one in variation]), _share([one[part] for one in changed]))
            for start, part in zip(starts, parts, strict=True)
        },
        drafts={length: _drafted([reading.changed for reading in readings], length) for length in DRAFTS},
        examples=list(examples.values())[:EXAMPLES],
    )


def _of_changed(reading: Reading) -> list[float]:
    return [value for value, changed in zip(reading.variation, reading.changed, strict=True) if changed]


def _drafted(replies: Sequence[Sequence[bool]], length: int) -> tuple[float, float]:
    """Greedy drafts of `length` along the blend's replies: the share that is accepted, and tokens a verification.

    A draft is accepted up to the first changed token; there, or after the whole draft, the verification gives one more.
    Exact for greedy replies: what is accepted is what the blend says.
    """
    drafted = accepted = verifications = tokens = 0
    for changed in replies:
        place = 0
        while place < len(changed):
            ahead = list(changed[place : place + length])
            taken = ahead.index(True) if True in ahead else len(ahead)
            drafted, accepted, verifications = drafted + len(ahead), accepted + taken, verifications + 1
            gone = min(taken + 1, len(changed) - place)
            place, tokens = place + gone, tokens + gone
    return accepted / drafted, tokens / verifications


def _share(values: Sequence[NDArray[Any]]) -> Share:
    sums = np.array([one.sum() for one in values], np.float64)
    sizes = np.array([len(one) for one in values], np.float64)
    low, high = ratio_interval(sums, sizes)
    return Share(float(sums.sum() / sizes.sum()), low, high, int(sizes.sum()))


def _plain(share: Share) -> dict[str, float]:
    return {name: round(value, 6) for name, value in asdict(share).items()}
