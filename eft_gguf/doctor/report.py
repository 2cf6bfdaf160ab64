"""Verdicts, and how they read: in 80 columns, as JSON, as an exit code."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from eft_gguf.printable import printable

Verdict = Literal["PASS", "WARN", "FAIL", "SKIP"]

WIDTH = 80
INDENT = 21
"""Where messages begin: behind the verdict and the name of the check."""


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at.

    evidence: what was seen, a line each.  remedy: what to do about it, a command wherever there is one.
    figures: what was measured, for JSON.  SKIP says that something could not be looked at, and judges nothing.
    """

    name: str
    verdict: Verdict
    message: str
    evidence: tuple[str, ...] = ()
    remedy: str = ""
    figures: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        # They quote names and tokens from files that nobody has looked at.
        object.__setattr__(self, "message", printable(self.message))
        object.__setattr__(self, "remedy", printable(self.remedy))
        object.__setattr__(self, "evidence", tuple(map(printable, self.evidence)))


@dataclass(slots=True)
class Report:
    """All checks of a family, in the order they were made."""

    family: str
    checks: list[Check] = field(default_factory=list)

    @property
    def exit_code(self) -> int:
        """0 where all is well, 1 where something could go better, 2 where it will not work."""
        verdicts = {check.verdict for check in self.checks}
        return 2 if "FAIL" in verdicts else 1 if "WARN" in verdicts else 0

    @property
    def failed(self) -> bool:
        return self.exit_code == 2

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {"family": self.family, "exit_code": self.exit_code, "checks": [asdict(check) for check in self.checks]}

    def summary(self) -> str:
        """How many of which verdict."""
        count = {verdict: sum(check.verdict == verdict for check in self.checks) for verdict in ("FAIL", "WARN")}
        if not any(count.values()):
            return "All is well."
        parts = [f"{number} {word}{'s' * (number > 1)}" for word, number in _counted(count) if number]
        return f"{' and '.join(parts)}: each tells what to do about it."


def _counted(count: dict[str, int]) -> list[tuple[str, int]]:
    return [("failure", count["FAIL"]), ("warning", count["WARN"])]


def text_of(check: Check, mark: Callable[[Verdict], str] = lambda verdict: verdict) -> str:
    """A check in lines of 80 columns at most, but for single words that are longer. mark: the verdict, coloured."""
    lines = _wrapped(check.message, "", "")
    for line in check.evidence:
        lines += _wrapped(line, "- ", "  ")
    if check.remedy:
        lines += _wrapped(check.remedy, "fix: ", "     ")
    head = f"{mark(check.verdict)}  {check.name:<{INDENT - 6}}"
    return "\n".join([head + lines[0], *(" " * INDENT + line for line in lines[1:])])


def _wrapped(text: str, first: str, rest: str) -> list[str]:
    return textwrap.wrap(
        text,
        WIDTH - INDENT,
        initial_indent=first,
        subsequent_indent=rest,
        break_long_words=False,
        break_on_hyphens=False,
    ) or [first]
