"""Figures as tables: on the terminal, and in a page of the documentation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eft_gguf.errors import OptionError
from eft_gguf.files import write_aside


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of text under a title; `note` says how to read them."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""

    def as_dict(self) -> dict[str, Any]:
        """As plain values, for JSON."""
        return {"title": self.title, "columns": list(self.columns), "rows": [*map(list, self.rows)], "note": self.note}

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
        # A bar in a cell would end it.
        rows = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in self.rows]
        return "\n".join([f"**{self.title}**", "", *head, *rows, *(["", self.note] if self.note else [])])


def write_section(section: str, text: str, path: Path) -> None:
    """Replace what stands between the section's two marks; everything around them is written by hand.

    The marks are `<!-- section -->` and `<!-- end of section -->`. Raises OptionError where they are missing.
    """
    before, after = split_page(section, path)
    write_aside(path, f"{before}\n{text}\n{after}")


def split_page(section: str, path: Path) -> tuple[str, str]:
    """A page up to a section's first mark, and from its second one on. Raises OptionError where they are missing."""
    begin, end = f"<!-- {section} -->", f"<!-- end of {section} -->"
    try:
        page = path.read_text(encoding="utf-8")
    except OSError as error:
        raise OptionError(
            f"cannot read {path}: {error.strerror}", hint=f"make it, with the lines {begin} and {end}"
        ) from None
    before, found, rest = page.partition(begin)
    _, closed, after = rest.partition(end)
    if not (found and closed):
        raise OptionError(f"{path} has no marks for {section}", hint=f"put in the lines {begin} and {end}")
    return before + begin, end + after


def _align(cell: str, width: int, column: int) -> str:
    return cell.ljust(width) if column == 0 else cell.rjust(width)
