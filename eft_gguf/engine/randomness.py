"""Random numbers by their place: a function of seed, position and purpose, with no state that could get out of step.

How many drafts a round tries, and which other sequences run, so has no part in a sequence's random numbers.
"""

from __future__ import annotations

from enum import IntEnum

_WORD = 2**64 - 1


class Purpose(IntEnum):
    """What a random number of a position decides. Each is used for one thing only, so that they are independent."""

    TOKEN = 0
    """The token itself, drawn from the blend or, after a refused draft, from what the draft left."""
    AGAIN = 1
    """The token once more, from what a grammar allows."""
    DRAFT = 2
    """The drafted token."""
    ACCEPT = 3
    """Whether the draft is taken."""


def uniform(seed: int, position: int, purpose: Purpose) -> float:
    """A number in [0, 1) for the token at `position` of a reply, by splitmix64 (Steele et al., OOPSLA 2014)."""
    return (_mix(_mix(_mix(seed) + position) + purpose) >> 11) * 2.0**-53


def _mix(word: int) -> int:
    word = (word + 0x9E3779B97F4A7C15) & _WORD
    word = ((word ^ (word >> 30)) * 0xBF58476D1CE4E5B9) & _WORD
    word = ((word ^ (word >> 27)) * 0x94D049BB133111EB) & _WORD
    return word ^ (word >> 31)
