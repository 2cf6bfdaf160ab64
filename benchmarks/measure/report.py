"""Figures as tables: on the terminal, as JSON, and in docs/benchmarks.md."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from eft_gguf.evaluation.table import Table, write_section
from eft_gguf.speed.spread import Spread

__all__ = ["Spread", "Table", "publish", "verdict"]

DOCS = Path(__file__).parents[2] / "docs" / "benchmarks.md"


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
    page: Path = DOCS,
) -> None:
    """Print the tables (or everything as JSON), and put them into a section of the page if asked to."""
    if as_json:
        print(json.dumps({"machine": machine, **data}, default=asdict, ensure_ascii=False, indent=1))
    else:
        print("\n\n".join([_machine_text(machine), *(table.text() for table in tables)]))
    if docs:
        parts = [f"`{machine['command']}`, {machine['date']}: {_hardware(machine)}."]
        write_section(section, "\n\n".join([*parts, *(table.markdown() for table in tables)]), page)
        print(f"written: section {section} of {page.name}", file=sys.stderr)


def _hardware(machine: Mapping[str, str]) -> str:
    hardware = f"{machine['cpu']} ({machine['instructions']}), {machine['memory']}; {machine['system']}"
    return f"{hardware}; {machine['versions']}; {machine['other work']}"


def _machine_text(machine: Mapping[str, str]) -> str:
    return "\n".join(f"{key}: {value}" for key, value in machine.items())
