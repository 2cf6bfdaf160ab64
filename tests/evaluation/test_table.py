"""Tables for a terminal and for a page, and the marks between which a page takes them."""

from __future__ import annotations

from pathlib import Path

import pytest

from eft_gguf.errors import OptionError
from eft_gguf.evaluation.table import Table, write_section

TABLE = Table("Facts", ("system", "right"), [("base", "70"), ("tuned alone", "9")], "Per cent.")


def test_a_table_in_a_terminal_is_aligned() -> None:
    assert TABLE.text().splitlines() == [
        "Facts",
        "system       right",
        "-----------  -----",
        "base            70",
        "tuned alone      9",
        "Per cent.",
    ]


def test_a_table_in_a_page() -> None:
    assert TABLE.markdown() == (
        "**Facts**\n\n| system | right |\n|---|---:|\n| base | 70 |\n| tuned alone | 9 |\n\nPer cent."
    )


def test_a_token_with_bars_stays_in_its_cell() -> None:
    table = Table("Tokens", ("after", "blend"), [("a|b", "<|im_end|>")])
    assert table.markdown().endswith("| a\\|b | <\\|im_end\\|> |")
    assert "<|im_end|>" in table.text()


def test_a_section_is_replaced_and_the_rest_of_the_page_stays(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("above\n<!-- facts -->\nold\n<!-- end of facts -->\nbelow <!-- other -->\n", encoding="utf-8")
    write_section("facts", "new", page)
    write_section("facts", "newer ≥", page)
    assert page.read_text("utf-8") == ("above\n<!-- facts -->\nnewer ≥\n<!-- end of facts -->\nbelow <!-- other -->\n")
    assert [path.name for path in tmp_path.iterdir()] == ["page.md"]


@pytest.mark.parametrize("text", ["", "<!-- facts -->", "<!-- end of facts --> <!-- facts -->"])
def test_a_page_without_marks_is_left_alone(text: str, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(text, encoding="utf-8")
    with pytest.raises(OptionError, match="has no marks for facts"):
        write_section("facts", "new", page)
    assert page.read_text("utf-8") == text
    with pytest.raises(OptionError, match="cannot read"):
        write_section("facts", "new", tmp_path / "none.md")
