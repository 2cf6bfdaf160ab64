"""The options by which a reply is drawn from the blended distribution."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from eft_gguf.errors import OptionError

_CHECKS: dict[str, tuple[Callable[[float], bool], str]] = {
    "temperature": (lambda v: v >= 0, "0 or more"),
    "top_k": (lambda v: 0 <= v < 2**31 and v == int(v), "a whole number, 0 or more"),
    "top_p": (lambda v: 0 < v <= 1, "above 0 and at most 1"),
    "min_p": (lambda v: 0 <= v <= 1, "between 0 and 1"),
    "typical_p": (lambda v: 0 < v <= 1, "above 0 and at most 1"),
    "top_n_sigma": (lambda v: v >= 0, "0 or more"),
    "xtc_probability": (lambda v: 0 <= v <= 1, "between 0 and 1"),
    "xtc_threshold": (lambda v: 0 <= v <= 1, "between 0 and 1"),
    "repeat_penalty": (lambda v: v > 0, "above 0"),
    "frequency_penalty": (lambda v: -2 <= v <= 2, "between -2 and 2"),
    "presence_penalty": (lambda v: -2 <= v <= 2, "between -2 and 2"),
    "penalty_window": (lambda v: 0 < v < 2**31 and v == int(v), "a whole number, 1 or more"),
    "dry_multiplier": (lambda v: v >= 0, "0 or more"),
    "dry_base": (lambda v: v >= 1, "1 or more"),
    "dry_allowed_length": (lambda v: v >= 1 and v == int(v), "a whole number, 1 or more"),
}
_OPTIONAL_CHECKS: dict[str, tuple[Callable[[float], bool], str]] = {
    "seed": (lambda v: 0 <= v < 2**32 and v == int(v), "a whole number from 0 to 4294967295"),
    "max_tokens": (lambda v: v >= 1 and v == int(v), "a whole number, 1 or more"),
    "logprobs": (lambda v: 0 <= v <= 100 and v == int(v), "a whole number from 0 to 100"),
}
_LEFT_OUT = {"seed": "leave it out, and one is drawn", "max_tokens": "leave it out for no limit"}

CONSTRAINTS = ("grammar", "json_schema", "regex", "lark")
"""Options that say what a reply must follow."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How a reply is drawn, by llama.cpp's samplers on the blended logits. Raises OptionError outside a range.

    temperature: 0 takes the most likely token every time.
    top_k, top_p, min_p, typical_p, top_n_sigma: what to keep; 0, 1, 0, 1 and 0 keep all.
    xtc_probability, xtc_threshold: now and then leave out the most likely choices; probability 0 is off.
    repeat_penalty, frequency_penalty, presence_penalty: against tokens among the last `penalty_window` of prompt and
    reply; 1, 0, 0 are off.
    dry_multiplier, dry_base, dry_allowed_length: against repeated runs of tokens; multiplier 0 is off.
    logit_bias: added to blended logits, by token id; −inf forbids.
    json_schema (its text, or a mapping), regex, lark (llguidance's Lark) or grammar (GBNF): what the reply must follow,
    one of them; tokens that it forbids are taken out of the blend before all other options.
    seed: None draws one, which the timings report.
    max_tokens: None goes on until the model ends its turn or the context is full.
    stop: texts that end the reply; they are not part of it.
    logprobs: give the log-probability of each chosen token under the blend, and of so many most likely ones.
    """

    temperature: float = 0.7
    top_k: int = 40
    top_p: float = 0.95
    min_p: float = 0.05
    typical_p: float = 1.0
    top_n_sigma: float = 0.0
    xtc_probability: float = 0.0
    xtc_threshold: float = 0.1
    repeat_penalty: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    penalty_window: int = 64
    dry_multiplier: float = 0.0
    dry_base: float = 1.75
    dry_allowed_length: int = 2
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    grammar: str | None = None
    json_schema: str | Mapping[str, Any] | None = None
    regex: str | None = None
    lark: str | None = None
    seed: int | None = None
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    logprobs: int | None = None

    def __post_init__(self) -> None:
        for name, (holds, wanted) in _CHECKS.items():
            _require(name, getattr(self, name), holds, wanted)
        for name, (holds, wanted) in _OPTIONAL_CHECKS.items():
            if getattr(self, name) is not None:
                _require(name, getattr(self, name), holds, wanted)
        if not isinstance(self.stop, tuple) or not all(isinstance(text, str) and text for text in self.stop):
            raise OptionError("stop must hold texts that are not empty", hint='for example stop=("\\n\\n",)')
        for token, bias in self.logit_bias.items():
            if not isinstance(token, int) or token < 0 or not isinstance(bias, (int, float)) or not bias < math.inf:
                raise OptionError(
                    f"logit_bias must map token ids to numbers, not {token!r} to {bias!r}",
                    hint="for example logit_bias={11: -1.5}",
                )
        given = [name for name in CONSTRAINTS if getattr(self, name) is not None]
        if len(given) > 1:
            raise OptionError(f"{given[0]} and {given[1]} exclude each other", hint="give one of them")
        for name in given:
            value = getattr(self, name)
            if not (isinstance(value, str) or (name == "json_schema" and isinstance(value, Mapping))):
                raise OptionError(f"{name} must be a text, not {type(value).__name__}", hint="leave it out for none")
            if isinstance(value, str) and not _writable(value):
                raise OptionError(f"{name} holds half a character, which UTF-8 cannot write", hint="mend the text")

    @property
    def constrained(self) -> bool:
        """Whether the reply must follow anything."""
        return any(getattr(self, name) is not None for name in CONSTRAINTS)


def _writable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _require(name: str, value: float, holds: Callable[[float], bool], wanted: str) -> None:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not math.isfinite(value) or not holds(value):
        usual = next(entry.default for entry in fields(Sampling) if entry.name == name)
        hint = _LEFT_OUT.get(name) or f"leave it out for {'none' if usual is None else usual}"
        raise OptionError(f"{name} must be {wanted}, not {value!r}", hint=hint)
