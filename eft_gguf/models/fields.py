"""A model file's keys, by kind and within bounds: the one way to read a number of it.

Whoever made the file may have written anything there: a text, a list, a negative number, two thousand million layers.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from eft_gguf.errors import ModelFileError

MOST = 2**31 - 1
"""llama.cpp keeps most counts in 32 bits."""
MOST_LAYERS = 512
"""LLAMA_MAX_LAYERS: llama.cpp ends the process over more."""
CONVERT_AGAIN = "the file is damaged, or was converted wrongly: fetch it or convert it again"


def whole_numbers(
    path: Path, fields: Mapping[str, Any], key: str, *, least: int = 0, most: int = MOST
) -> list[int] | None:
    """What stands under a key, a number or one for each layer, as a list; None where there is nothing.

    Raises ModelFileError, with key and value, for all that is no whole number from `least` to `most`.
    """
    value = fields.get(key)
    if value is None:
        return None
    several = value if isinstance(value, list) else [value]
    wrong = next((one for one in several if type(one) is not int or not least <= one <= most), None)
    if wrong is not None or not several:
        raise refused(path, key, value if wrong is None else wrong, f"a whole number from {least:,} to {most:,}")
    return several


def whole_number(path: Path, fields: Mapping[str, Any], key: str, *, least: int = 0, most: int = MOST) -> int | None:
    """As `whole_numbers`, of a key that has one number alone."""
    if isinstance(fields.get(key), list):
        raise refused(path, key, fields[key], "one number, no list")
    several = whole_numbers(path, fields, key, least=least, most=most)
    return None if several is None else several[0]


def text(path: Path, fields: Mapping[str, Any], key: str) -> str | None:
    """A text; None where there is nothing. Raises ModelFileError for what is none."""
    value = fields.get(key)
    if value is None or isinstance(value, str):
        return value
    raise refused(path, key, value, "a text")


def refused(path: Path, key: str, value: object, wanted: str) -> ModelFileError:
    """The error for a value that cannot be."""
    shown = f"{value:,}" if type(value) is int else f"{value!r:.60}"
    return ModelFileError(f"{path}: {key} is {shown}; it must be {wanted}", hint=CONVERT_AGAIN)
