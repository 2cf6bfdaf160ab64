"""Texts from model files do nothing on a terminal but stand there."""

from __future__ import annotations

import pytest

from eft_gguf.errors import EFTError
from eft_gguf.models.findings import Finding
from eft_gguf.printable import LONGEST, printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Größe 日本 👍\nsecond line", "Größe 日本 👍\nsecond line"),
        ("\x1b]0;owned\x07", "\\x1b]0;owned\\x07"),
        ("a\rb\0c", "a\\rb\\x00c"),
        ("turned \u202eround", "turned \\u202eround"),
        ("\udcff", "\\udcff"),
        ("\u2028", "\\u2028"),
    ],
)
def test_signs_that_steer_are_written_out(text: str, shown: str) -> None:
    assert printable(text) == shown


def test_long_texts_lose_their_middle() -> None:
    shown = printable("a" * 100_000 + "b")
    assert len(shown) < LONGEST + 60
    assert "(98,001 more characters)" in shown
    assert shown.endswith("b")


def test_errors_and_findings_are_printable() -> None:
    error = EFTError("the architecture is \x1b[2J", hint="take \x07")
    assert str(error) == "the architecture is \\x1b[2J\ntake \\x07"
    finding = Finding("error", "\x1b", "\x07", ("\x9b",))
    assert (finding.message, finding.hint, finding.evidence) == ("\\x1b", "\\x07", ("\\x9b",))
