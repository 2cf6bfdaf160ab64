"""How much a chat template may do: steps, time, and bytes of what it makes.

Templates are programs in downloaded files. Jinja's sandbox keeps them from files and from Python's insides, and lets
them count to 10¹⁸ or make texts of gigabytes. Each loop and call goes through a `Budget`, and whatever could make
something large is asked for its size before it is made, so that no single operation is long or large.
"""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextvars import ContextVar
from typing import Any

STEPS = 2_000_000
"""Rounds of loops and calls, at most: some seconds. A conversation of 1,000 messages takes some 30,000."""
SECONDS = 5.0
"""Of the processor's time for this thread, so that a busy machine refuses nothing."""
TEXT = 8_000_000
"""Characters of a text; more than any model's context holds."""
MADE = 200_000_000
"""Bytes of all that is made on the way, at most."""
NUMBER = 10_000
"""The largest number that a function is given: widths, indents, counts."""
PARTS = 1_000_000
"""What a list or mapping may come to: its entries, and a sixteenth of the characters of their texts."""
BITS = 4096
"""Bits of a whole number."""


class LimitError(Exception):
    """A template did more than it may."""


class Budget:
    """What one rendering may still do."""

    def __init__(self, given: Iterable[object]) -> None:
        self._steps = STEPS
        self._until = time.thread_time() + SECONDS
        self._left = MADE
        # Containers by id, kept alive so that no other one gets the id: their weight is known.
        self._known: dict[int, tuple[object, int]] = {}
        for value in given:
            self._weigh(value, sys.maxsize)

    def step(self, count: int = 1) -> None:
        """Count steps. Raises LimitError."""
        self._steps -= count
        if self._steps < 0:
            raise LimitError(f"it takes more than {STEPS:,} steps")
        if self._steps & 255 < count and time.thread_time() > self._until:
            raise LimitError(f"it takes more than {SECONDS:g} s")

    def room(self, characters: int) -> None:
        """Raise LimitError where a text of so many characters is too long."""
        if characters > TEXT:
            raise LimitError(f"it makes a text of {characters:,} characters, and {TEXT:,} are the most")

    def made(self, value: Any) -> Any:
        """Count what was made, and return it. Raises LimitError where it is too much, or all is."""
        if isinstance(value, (str, bytes)):
            self.room(len(value))
            self._take(sys.getsizeof(value))
        elif isinstance(value, (list, tuple, dict, set, frozenset)):
            self._weigh(value, PARTS)
            self._take(sys.getsizeof(value))
        elif isinstance(value, int):
            _bits(value.bit_length())
        return value

    def weight(self, value: object) -> int:
        """How many characters it comes to when it is written out, at most, and roughly."""
        return len(value) if isinstance(value, (str, bytes)) else 16 * self._weigh(value, PARTS)

    def _take(self, size: int) -> None:
        self._left -= size
        if self._left < 0:
            raise LimitError(f"it makes more than {MADE:,} bytes on the way")

    def _weigh(self, value: object, most: int, depth: int = 0) -> int:
        """Its parts, and theirs. Raises LimitError beyond `most`."""
        if isinstance(value, (str, bytes)):
            return 1 + len(value) // 16
        if not isinstance(value, (list, tuple, dict, set, frozenset)):
            return 4
        if found := self._known.get(id(value)):
            return found[1]
        if depth > 200:
            raise LimitError("it nests lists and mappings deeper than 200")
        parts: Iterable[object] = (
            (half for item in value.items() for half in item) if isinstance(value, dict) else value
        )
        total = 1
        for part in parts:
            total += self._weigh(part, most, depth + 1)
            if total > most:
                raise LimitError(f"it makes a list or mapping of more than {most:,} parts")
        self._known[id(value)] = value, total
        return total


def _bits(count: int) -> None:
    if count > BITS:
        raise LimitError(f"it makes a whole number of more than {BITS:,} bits")


CURRENT: ContextVar[Budget] = ContextVar("budget")
"""That of the rendering which this thread is at."""


class Counted:
    """What a loop goes over, each round of it counted."""

    def __init__(self, values: Any) -> None:
        self._values = values

    def __iter__(self) -> Iterator[Any]:
        budget = CURRENT.get()
        for value in self._values:
            budget.step()
            yield value

    def __len__(self) -> int:
        return len(self._values)


def before_call(function: str, subject: Any, arguments: tuple[Any, ...], named: Mapping[str, Any]) -> None:
    """Hold a call of a function of text against the limits before it is made. Raises LimitError."""
    budget = CURRENT.get()
    budget.step()
    values = [*arguments, *named.values()]
    for value in values:
        if isinstance(value, int) and abs(value) > NUMBER and function in WIDTHS:
            raise LimitError(f"{function} is given the number {value if value.bit_length() < 64 else 'of many digits'}")
    if function in ("translate", "maketrans") or (function == "sum" and any(isinstance(one, list) for one in values)):
        raise LimitError(f"it calls {function} in a way that is not to be had here")
    measure = GROWTH.get(function)
    if measure is not None and isinstance(subject, (str, bytes, list, tuple)):
        budget.room(measure(budget, subject, values))


def _replaced(budget: Budget, subject: Any, values: list[Any]) -> int:
    old, new = (str(value) for value in values[:2])
    return len(subject) + (len(subject) + 1 if not old else str(subject).count(old)) * len(new)


def _joined(budget: Budget, subject: Any, values: list[Any]) -> int:
    """Of the method, whose subject is what stands between, and of the filter, whose subject is what is joined."""
    between, parts = (
        (subject, values[0]) if isinstance(subject, (str, bytes)) else (values[0] if values else "", subject)
    )
    if isinstance(parts, (str, bytes)) or not hasattr(parts, "__len__"):
        return len(str(parts)) * (1 + len(str(between))) if isinstance(parts, (str, bytes)) else 0
    return budget.weight(parts) + len(parts) * len(str(between))


def _formatted(budget: Budget, subject: Any, values: list[Any]) -> int:
    text = str(subject)
    if re.search(r"\d{5}|\*", text):
        raise LimitError("it formats with a width of five digits or more")
    largest = max((budget.weight(value) for value in values), default=0)
    return len(text) + (text.count("%") + text.count("{")) * (largest + NUMBER)


def _indented(budget: Budget, subject: Any, values: list[Any]) -> int:
    width = max((len(value) if isinstance(value, str) else int(value) for value in values[:1]), default=4)
    return len(subject) + (str(subject).count("\n") + 1) * width


GROWTH: dict[str, Callable[[Budget, Any, list[Any]], int]] = {
    "replace": _replaced, "join": _joined, "format": _formatted, "format_map": _formatted, "indent": _indented,
    "expandtabs": lambda budget, subject, values: len(subject) * 16,
}  # fmt: skip
"""Functions of texts, methods and filters: how long what they make can be."""
WIDTHS = (
    "center", "ljust", "rjust", "zfill", "expandtabs", "format", "format_map", "indent", "tojson", "batch", "slice",
    "to_bytes", "truncate", "round",
)  # fmt: skip
"""Functions that make something as long as a number says."""


def binary(operator: str, left: Any, right: Any) -> None:
    """Hold an operation against the limits before it is made. Raises LimitError."""
    budget = CURRENT.get()
    budget.step()
    texts = (str, bytes, list, tuple)
    if operator == "%" and isinstance(left, (str, bytes)):
        budget.room(_formatted(budget, left, [right]))
    elif operator == "+" and isinstance(left, texts) and isinstance(right, texts):
        budget.room(len(left) + len(right))
    elif operator == "*":
        for one, other in ((left, right), (right, left)):
            if isinstance(one, texts) and isinstance(other, int):
                budget.room(len(one) * max(0, other))
        if isinstance(left, int) and isinstance(right, int):
            _bits(left.bit_length() + right.bit_length())
    elif operator == "**" and isinstance(left, int) and isinstance(right, int):
        _bits(left.bit_length() * abs(right))


def as_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """The filter `tojson`, as transformers has it: nothing is escaped for HTML."""
    budget = CURRENT.get()
    budget.weight(value)
    encoder = json.JSONEncoder(ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
    if not indent:
        return encoder.encode(value)
    pieces, length = [], 0
    for piece in encoder.iterencode(value):
        length += len(piece)
        budget.room(length)
        pieces.append(piece)
    return "".join(pieces)
