"""Figures as tables: on the terminal, as JSON, and in docs/benchmarks.md."""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from eft_gguf.evaluation.table import Table, write_section

DOCS = Path(__file__).parents[2] / "docs" / "benchmarks.md"


@dataclass(frozen=True)
class Spread:
    """Median and quartiles of repeated measurements."""

    median: float
    low: float
    high: float
    count: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        low, median, high = statistics.quantiles(values, n=4, method="inclusive")
        return cls(median, low, high, len(values))

    def text(self, digits: int, *, scale: float = 1.0) -> str:
        """As `median (first quartile – third quartile)`."""
        low, median, high = (f"{value * scale:.{digits}f}" for value in (self.low, self.median, self.high))
        return f"{median} ({low} – {high})"


def verdict(value: float, bound: float) -> str:
    """Whether a figure keeps its bound."""
    return "kept" if value <= bound else "MISSED"


def publish(
    section: str,
    machine: Mapping[str, str],
    tables: Sequence[Table],
    data: Mapping[str, Any],
    *,
    as_json: bool,
    docs: bool,
) -> None:
    """Print the tables (or everything as JSON), and put them into a section of docs/benchmarks.md if asked to."""
    if as_json:
        print(json.dumps({"machine": machine, **data}, default=asdict, ensure_ascii=False, indent=1))
    else:
        print("\n\n".join([_machine_text(machine), *(table.text() for table in tables)]))
    if docs:
        parts = [f"`{machine['command']}`, {machine['date']}: {_hardware(machine)}."]
        write_section(section, "\n\n".join([*parts, *(table.markdown() for table in tables)]), DOCS)
        print(f"written: section {section} of {DOCS.name}", file=sys.stderr)


def _hardware(machine: Mapping[str, str]) -> str:
    return (
        f"{machine['cpu']} ({machine['instructions']}), {machine['memory']}; {machine['system']}; {machine['versions']}"
    )


def _machine_text(machine: Mapping[str, str]) -> str:
    return "\n".join(f"{key}: {value}" for key, value in machine.items())
