"""What is found about a family: severity, message, evidence and the way out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from eft_gguf.printable import printable

Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")


@dataclass(frozen=True, slots=True)
class Finding:
    """An error forbids blending, a warning tells of something that will go worse than it could, a note of no matter.

    evidence: what was seen, ids and texts, a line each.  hint: what to do, empty where nothing is to be done.
    """

    severity: Severity
    message: str
    hint: str = ""
    evidence: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        # They quote names and tokens from files that nobody has looked at.
        object.__setattr__(self, "message", printable(self.message))
        object.__setattr__(self, "hint", printable(self.hint))
        object.__setattr__(self, "evidence", tuple(map(printable, self.evidence)))
