"""What is found about a family: severity, message, evidence and the way out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

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
