"""The equation of emulated fine-tuning, once, in plain NumPy: the reference that everything faster is held to.

    z = z_untuned + knowledge · (z_base − z_untuned) + behaviour · Σ_i weight_i · (z_tuned_i − z_untuned)

With both dials 1 and one trait this is the product of experts  base · tuned / untuned,  normalised per token:
Mitchell et al., "An Emulator for Fine-Tuning Large Language Models using Small Language Models", arXiv 2310.12962,
equation 4. `knowledge` other than 1 is its amplified up-scaling (β), `behaviour` other than 1 is α of proxy-tuning
(arXiv 2401.08565), and the weights are the paper's interpolation of two rewards.

Logits and log-probabilities serve alike: they differ by a constant per model, which softmax removes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from eft_gguf.errors import OptionError


@dataclass(frozen=True, slots=True)
class Blend:
    """The two dials, and weights for traits where they are to differ from the family's.

    knowledge: how much of the pre-training difference base − untuned (0 none, 1 the paper's).
    behaviour: how much of the fine-tuning difference tuned − untuned (0 none, 1 the paper's).
    traits: weight by trait name; a trait not named keeps the weight that its family gives it.

    Raises OptionError where a value is no finite number.
    """

    knowledge: float = 1.0
    behaviour: float = 1.0
    traits: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _require_finite("knowledge", self.knowledge)
        _require_finite("behaviour", self.behaviour)
        for name, weight in self.traits.items():
            _require_finite(f"the weight of trait {name!r}", weight)

    def weights(self, family_weights: Mapping[str, float]) -> tuple[float, ...]:
        """The weight of each trait, in the family's order. Raises OptionError for a trait that is not the family's."""
        for name in self.traits:
            if name not in family_weights:
                known = ", ".join(family_weights) or "none"
                raise OptionError(
                    f"unknown trait {name!r}: this family has {known}", hint="name one of the family's traits"
                )
        return tuple(float(self.traits.get(name, weight)) for name, weight in family_weights.items())


def coefficients(knowledge: float, behaviour: float, weights: Sequence[float]) -> tuple[float, ...]:
    """The equation sorted by model: one factor each for base, untuned and every tuned model, in this order.

    They sum to one. A model whose factor is 0 has no part in the blend and needs no decode: (1, 0) needs the base
    alone, (0, 1) with one trait of weight 1 the tuned model alone.
    """
    tuned = [behaviour * weight for weight in weights]
    untuned = 1.0 - math.fsum([knowledge, *tuned])
    # Dials such as 0.7 and 0.3 cancel only up to rounding, and a factor of 1e-17 would still cost a decode.
    if abs(untuned) < 1e-12:
        untuned = 0.0
    return (float(knowledge), untuned, *tuned)


def blend_logits(rows: Sequence[NDArray[np.float32]], factors: Sequence[float]) -> NDArray[np.float64]:
    """The blended logits, float64, shape (n,): the sum of factor × row over the models whose factor is not 0.

    rows: logits of base, untuned and each tuned model, each of shape (n,). factors: as `coefficients` gives them.
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


def _require_finite(name: str, value: float) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise OptionError(f"{name} must be a finite number, not {value!r}", hint="1 is the paper's setting")
