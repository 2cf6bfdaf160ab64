"""Text from outside, such as model files hold, made fit to be shown: no control characters, and not endless."""

from __future__ import annotations

LONGEST = 2000
"""Characters of a text that are shown."""


def printable(text: object, *, longest: int = LONGEST) -> str:
    """The text on a terminal does nothing but stand there: what is no letter or sign is written as an escape.

    A line break stays. The middle of a text of more than `longest` characters is left out.
    """
    shown = str(text)
    if len(shown) > longest:
        half = longest // 2
        shown = f"{shown[:half]} … ({len(shown) - 2 * half:,} more characters) … {shown[-half:]}"
    if shown.replace("\n", "").isprintable():
        return shown
    return "".join(one if one == "\n" or one.isprintable() else ascii(one)[1:-1] for one in shown)
