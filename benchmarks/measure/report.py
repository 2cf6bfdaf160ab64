"""Figures as tables: on the terminal, as JSON, and in docs/benchmarks.md."""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parents[2] / "docs" / "benchmarks.md"


@dataclass(frozen=True)
class Table:
    """Rows of text under a title; `note` says how to read them."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""

    def text(self) -> str:
        """For a terminal: columns aligned, the first to the left."""
        lines = [list(self.columns), *map(list, self.rows)]
        widths = [max(len(line[i]) for line in lines) for i in range(len(self.columns))]
        drawn = ["  ".join(_align(cell, widths[i], i) for i, cell in enumerate(line)).rstrip() for line in lines]
        drawn.insert(1, "  ".join("-" * width for width in widths))
        return "\n".join([self.title, *drawn, *([self.note] if self.note else [])])

    def markdown(self) -> str:
        """For the documentation."""
        head = ["| " + " | ".join(self.columns) + " |", "|---" + "|---:" * (len(self.columns) - 1) + "|"]
        rows = ["| " + " | ".join(row) + " |" for row in self.rows]
        return "\n".join([f"**{self.title}**", "", *head, *rows, *(["", self.note] if self.note else [])])


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
        write_section(section, "\n\n".join([*parts, *(table.markdown() for table in tables)]))


def write_section(section: str, text: str, path: Path = DOCS) -> None:
    """Replace what stands between the section's two marks; everything around them is written by hand."""
    begin, end = f"<!-- {section} -->", f"<!-- end of {section} -->"
    page = path.read_text(encoding="utf-8")
    if begin not in page or end not in page:
        raise SystemExit(f"{path} has no marks {begin} and {end}")
    before, rest = page.split(begin, 1)
    path.write_text(before + begin + "\n" + text + "\n" + end + rest.split(end, 1)[1], encoding="utf-8")
    print(f"written: section {section} of {path.name}", file=sys.stderr)


def _hardware(machine: Mapping[str, str]) -> str:
    return (
        f"{machine['cpu']} ({machine['instructions']}), {machine['memory']}; {machine['system']}; {machine['versions']}"
    )


def _machine_text(machine: Mapping[str, str]) -> str:
    return "\n".join(f"{key}: {value}" for key, value in machine.items())


def _align(cell: str, width: int, column: int) -> str:
    return cell.ljust(width) if column == 0 else cell.rjust(width)
