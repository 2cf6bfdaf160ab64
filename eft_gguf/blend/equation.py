"""The equation of emulated fine-tuning, once, in plain NumPy: the reference that everything faster is held to.

    z = z_untuned + knowledge · (z_base − z_untuned) + behaviour · Σ_i weight_i · (z_tuned_i − z_untuned_i)

where untuned_i is the untuned model of all, unless trait i was tuned from another one and is measured against that.
With both dials 1 and one trait this is the product of experts  base · tuned / untuned,  normalised per token:
Mitchell et al., "An Emulator for Fine-Tuning Large Language Models using Small Language Models", arXiv 2310.12962,
equation 4. `knowledge` other than 1 is its amplified up-scaling (β), `behaviour` other than 1 is α of proxy-tuning
(arXiv 2401.08565), and the weights are the paper's interpolation of two rewards.

Logits and log-probabilities serve alike: they differ by a constant per model, which softmax removes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eft_gguf.errors import OptionError

MOST = 1000
"""The largest dial: far beyond use, and sums of logits stay within float32."""
NO_NEGATIVE = "0 leaves the trait out; a negative behaviour turns all fine-tuning around"


def _require(name: str, value: float | None, holds: Callable[[float], bool], wanted: str) -> None:
    if value is None:
        return
    number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if not number or not holds(value):
        raise OptionError(f"{name} must be {wanted}, not {value!r}", hint="leave it out to switch it off")


@dataclass(frozen=True, slots=True)
class Filter:
    """Conservative decoding: what keeps tokens from winning by noise in the tails. Any combination; None is off.

    A top-p set is the smallest set of most likely tokens whose probability reaches p, of equals those of smaller id.
    `filter.filtered_logits` is the arithmetic.

    tuned_top_p: `knowledge` counts only inside the top-p set of the tuned side (the blend at knowledge 0, which is the
        tuned model for one trait of weight 1 at behaviour 1); tokens outside keep the probability that it gives them.
        The conservative decoding of Mitchell et al., arXiv 2310.12962.
    base_top_p: tokens outside the base's top-p set are ruled out. As DExperts does (Liu et al., arXiv 2105.03023).
    base_min_p: tokens less than this times as likely as the base's likeliest are ruled out: the plausibility constraint
        of contrastive decoding (Li et al., arXiv 2210.15097).
    untuned_floor: log-probabilities of every untuned model below it count as the floor, in nats, so that a ratio of
        two tiny numbers cannot win: how tiny is noise. docs/steering.md has what it is worth.

    1 for a top-p and 0 for base_min_p change nothing. Raises OptionError for a value outside its range.
    """

    tuned_top_p: float | None = None
    base_top_p: float | None = None
    base_min_p: float | None = None
    untuned_floor: float | None = None

    def __post_init__(self) -> None:
        for name in ("tuned_top_p", "base_top_p"):
            _require(name, getattr(self, name), lambda value: 0 < value <= 1, "above 0 and at most 1")
        _require("base_min_p", self.base_min_p, lambda value: 0 <= value <= 1, "between 0 and 1")
        _require("untuned_floor", self.untuned_floor, lambda value: value <= 0, "a finite number, 0 or less")

    def in_force(self, factors: Sequence[float], untuned: Sequence[int] = (1,)) -> Filter:
        """This filter without what changes nothing in a blend of these `coefficients`: Filter() if that is all of it.

        untuned: the places of the untuned models.  The floor is idle where none of them has part in the blend,
        tuned_top_p where knowledge is 0.
        """
        if self == NO_FILTER:
            return self
        tuned_top_p = None if self.tuned_top_p == 1 or factors[0] == 0 else self.tuned_top_p
        return Filter(
            tuned_top_p,
            None if self.base_top_p == 1 else self.base_top_p,
            None if self.base_min_p == 0 else self.base_min_p,
            None if tuned_top_p is None and not any(factors[place] for place in untuned) else self.untuned_floor,
        )


NO_FILTER = Filter()
"""All of it off."""


@dataclass(frozen=True, slots=True)
class Blend:
    """The two dials, weights for traits where they are to differ from the family's, and a filter.

    knowledge: how much of the pre-training difference base − untuned (0 none, 1 the paper's).
    behaviour: how much of the fine-tuning difference tuned − untuned (0 none, 1 the paper's).
    traits: weight by trait name; a trait not named keeps the weight that its family gives it.
    filter: what keeps tokens from winning by noise; see `Filter`.

    Numbers of NumPy are taken as well. Raises OptionError where a value is no finite number or beyond ±1,000, or a
    weight is negative.
    """

    knowledge: float = 1.0
    behaviour: float = 1.0
    traits: Mapping[str, float] = field(default_factory=dict)
    filter: Filter = field(default_factory=Filter)

    def __post_init__(self) -> None:
        for name in ("knowledge", "behaviour"):
            object.__setattr__(self, name, _dial(name, getattr(self, name)))
        if not isinstance(self.traits, Mapping):
            raise OptionError(
                f"traits must be a mapping of names to weights, not {self.traits!r:.80}",
                hint='for example Blend(traits={"helpful": 0.7})',
            )
        traits = {name: _dial(f"the weight of trait {name!r}", weight) for name, weight in self.traits.items()}
        for name, weight in traits.items():
            if weight < 0:
                raise OptionError(f"the weight of trait {name!r} must be 0 or more, not {weight!r}", hint=NO_NEGATIVE)
        object.__setattr__(self, "traits", traits)
        if not isinstance(self.filter, Filter):
            raise OptionError(
                f"filter must be a Filter, not {self.filter!r}", hint="Blend(filter=Filter(base_min_p=0.1))"
            )

    def weights(self, family_weights: Mapping[str, float]) -> tuple[float, ...]:
        """The weight of each trait, in the family's order. Raises OptionError for a trait that is not the family's."""
        for name in self.traits:
            if name not in family_weights:
                known = ", ".join(family_weights) or "none"
                raise OptionError(
                    f"unknown trait {name!r}: this family has {known}", hint="name one of the family's traits"
                )
        return tuple(float(self.traits.get(name, weight)) for name, weight in family_weights.items())


def coefficients(
    knowledge: float, behaviour: float, weights: Sequence[float], untuned: Sequence[int] | None = None
) -> tuple[float, ...]:
    """The equation sorted by model: one factor each for base, untuned, every tuned model and further untuned ones.

    untuned: which untuned model each trait is measured against: 0 is the one of all, as without the argument; 1, 2 …
    are further ones, whose factors come in this order.

    The factors sum to one. A model whose factor is 0 has no part in the blend and needs no decode: (1, 0) needs the
    base alone, (0, 1) with one trait of weight 1 the tuned model alone.
    """
    tuned = [behaviour * weight for weight in weights]
    untuned = untuned or [0] * len(tuned)

    def measured_against(number: int) -> list[float]:
        return [factor for factor, own in zip(tuned, untuned, strict=True) if own == number]

    shared = 1.0 - math.fsum([knowledge, *measured_against(0)])
    others = (-math.fsum(measured_against(number)) for number in range(1, max(untuned, default=0) + 1))
    return (float(knowledge), _without_rounding(shared), *tuned, *map(_without_rounding, others))


def tuned_side(factors: Sequence[float]) -> tuple[float, ...]:
    """The factors of the same blend at knowledge 0: the tuned models, and what of the untuned ones is left."""
    knowledge, untuned, *others = factors
    return (0.0, _without_rounding(untuned + knowledge), *others)


def members_needed(factors: Sequence[float], filter: Filter) -> list[int]:
    """The members that must be decoded: those with part in the blend, and those that only the filter looks at."""
    filter = filter.in_force(factors)
    needed = {member for member, factor in enumerate(factors) if factor != 0.0}
    if filter.base_top_p is not None or filter.base_min_p is not None:
        needed.add(0)
    if filter.tuned_top_p is not None:
        needed.add(1)
    return sorted(needed)


def _without_rounding(factor: float) -> float:
    # Dials such as 0.7 and 0.3 cancel only up to rounding, and a factor of 1e-17 would still cost a decode.
    return 0.0 if abs(factor) < 1e-12 else factor


def blend_logits(rows: Sequence[NDArray[np.floating[Any]]], factors: Sequence[float]) -> NDArray[np.float64]:
    """The blended logits, float64, shape (n,): the sum of factor × row over the models whose factor is not 0.

    rows: logits of the models, each of shape (n,), in the order of `coefficients`, which gives their factors.
    A token whose sum is not finite (a model that has part in the blend gives it −inf) is ruled out: −inf.
    """
    total = np.zeros(len(rows[0]), dtype=np.float64)
    with np.errstate(invalid="ignore"):
        for row, factor in zip(rows, factors, strict=True):
            if factor != 0.0:
                total += factor * row.astype(np.float64)
    total[~np.isfinite(total)] = -np.inf
    return total


def log_softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """Natural log-probabilities of logits, shape (n,); −inf stays −inf."""
    shifted = logits - logits.max()
    return np.asarray(shifted - np.log(np.exp(shifted).sum()), dtype=np.float64)


def _dial(name: str, value: Any) -> float:
    try:
        number = float(value) if not isinstance(value, bool) and isinstance(value, Real) else math.nan
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise OptionError(f"{name} must be a finite number, not {value!r:.80}", hint="1 is the paper's setting")
    if abs(number) > MOST:
        raise OptionError(f"{name} must be at most {MOST:,} in size, not {number:g}", hint="1 is the paper's setting")
    return number
