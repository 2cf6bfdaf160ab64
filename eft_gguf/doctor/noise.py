"""How much of the small pair's difference is noise of its quantization, where the pair is here at a second one.

The blend adds log p_tuned − log p_untuned to the base. Two quantizations of the same pair give two such differences;
what they differ by is not behaviour. Both are added to the same base, over the tokens of one reply, and compared as
distributions: noise is the mean KL divergence of the one blend from the other, effect that of the blend from the base
alone. Both in nats a token.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eft_gguf.doctor.report import Check
from eft_gguf.doctor.speed import Measured, Tick, probabilities
from eft_gguf.eft import EFT
from eft_gguf.models.family import Family
from eft_gguf.models.metadata import PART
from eft_gguf.models.references import Reference
from eft_gguf.models.repository import QUANTIZATION

MOST = 0.1
"""The share of the effect that noise may be: a tenth of the effect is what turning `behaviour` to 1.1 does."""

Differences = list[NDArray[np.float64]]


def other_quantizations(path: Path) -> dict[str, Path]:
    """Files beside this one that are called like it, but for the quantization: by that, in capitals."""
    own = QUANTIZATION.search(path.name)
    if own is None:
        return {}
    wanted = QUANTIZATION.sub("", path.name).lower()
    found: dict[str, Path] = {}
    for other in sorted(path.parent.glob("*.gguf")):
        match = QUANTIZATION.search(other.name)
        part = PART.fullmatch(other.name)
        if match is None or match[1].upper() == own[1].upper() or (part and int(part["number"]) > 1):
            continue
        if QUANTIZATION.sub("", other.name).lower() == wanted and other.exists():
            found[match[1].upper()] = other
    return found


def second_pair(family: Family) -> tuple[str, Path, Path] | None:
    """(quantization, untuned, tuned) of the pair at another quantization, the finest there is; None if there is none.

    An adapter serves for both.
    """
    trait = family.tuned[0]
    untuned = other_quantizations((trait.untuned or family.untuned).path)
    tuned = dict.fromkeys(untuned, trait.model.path) if trait.model.adapter else other_quantizations(trait.model.path)
    common = [name for name in untuned if name in tuned]
    if not common:
        return None
    best = max(common, key=lambda name: untuned[name].stat().st_size)
    return best, untuned[best], tuned[best]


def noise_check(family: Family, eft: EFT, measured: Measured, options: Mapping[str, Any], tick: Tick) -> Check:
    """Noise against effect, where it can be told. `eft` is closed for it: one pair at a time is in memory."""
    found = second_pair(family)
    if found is None:
        message = "not measured: no second quantization of the small pair lies beside it"
        remedy = "to measure it, put untuned and tuned at another quantization beside these, called alike"
        return Check("noise", "SKIP", message, remedy=remedy)
    name, untuned, tuned = found
    tick("the pair's difference")
    trait = family.tuned[0]
    base, difference = _rows(eft, measured, trait.name, family.untuned_of[trait.name])
    eft.close()
    tick(f"the pair's difference at {name}")
    reference = Reference(str(untuned), untuned)
    second = Family(
        f"{family.name} at {name}",
        reference,
        reference,
        (replace(trait, model=replace(trait.model, path=tuned, text=str(tuned)), untuned=None),),
        bases_template=family.bases_template,
    )
    with EFT.open(second, **{**options, "probe": True, "speculate": "off"}) as other:
        _, again = _rows(other, measured, trait.name, "untuned")
    noise, effect = divergences(base, difference, again)
    finer = untuned.stat().st_size > (trait.untuned or family.untuned).path.stat().st_size
    return judged(noise, effect, name, finer=finer, paths=(untuned, tuned), adapter=trait.model.adapter)


def divergences(base: Differences, one: Differences, other: Differences) -> tuple[float, float]:
    """(noise, effect) in nats a token: KL of the blend with `one` from that with `other`, and from the base alone."""
    noise, effect = [], []
    for row, first, second in zip(base, one, other, strict=True):
        width = min(len(row), len(first), len(second))
        blend = _log(row[:width] + first[:width])
        chances = np.exp(blend)
        noise.append(float(chances @ (blend - _log(row[:width] + second[:width]))))
        effect.append(float(chances @ (blend - _log(row[:width]))))
    return float(np.mean(noise)), float(np.mean(effect))


def judged(noise: float, effect: float, name: str, *, finer: bool, paths: tuple[Path, Path], adapter: bool) -> Check:
    """The verdict. finer: whether the second quantization is the better one.  paths: its untuned and tuned."""
    share = noise / effect if effect else 0.0
    figures = {"noise": noise, "effect": effect, "quantization": name}
    than = f"against the pair at {name}, {'finer' if finer else 'coarser'}"
    message = f"{noise:.3f} nats a token of noise {than}, in an effect of {effect:.3f}: {share:.0%}"
    if share <= MOST:
        return Check("noise", "PASS", message, figures=figures)
    if not finer:
        return Check("noise", "PASS", message, (f"so much would be lost by going down to {name}",), figures=figures)
    untuned, tuned = paths
    remedy = f"take the finer pair: --untuned {untuned} --tuned {'lora:' * adapter}{tuned}"
    return Check("noise", "WARN", message, (), remedy, figures)


def _rows(eft: EFT, measured: Measured, tuned: str, untuned: str) -> tuple[Differences, Differences]:
    """Copies of base's logits and of the pair's difference, at each token of the reply."""
    base, difference = [], []
    for _, rows in eft.replay(measured.prompt, measured.reply):
        base.append(rows["base"].astype(np.float64))
        difference.append(_difference(rows[tuned], rows[untuned]))
    return base, difference


def _difference(tuned: NDArray[np.float32], untuned: NDArray[np.float32]) -> NDArray[np.float64]:
    """0 for tokens that no reply may hold: base has −inf there."""
    difference = np.zeros(len(tuned))
    np.subtract(tuned, untuned, out=difference, where=np.isfinite(tuned) & np.isfinite(untuned), dtype=np.float64)
    return difference


def _log(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    with np.errstate(divide="ignore"):
        chances = probabilities(logits)
        return np.asarray(np.log(np.maximum(chances, 1e-300)))
