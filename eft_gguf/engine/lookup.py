"""Prompt lookup: a draft from the text itself. Where the last tokens stood before, what followed then may follow again.

After Saxena, prompt lookup decoding (2023): worth it for code that is edited and texts that are quoted or summed up.
"""

from __future__ import annotations

from collections.abc import Sequence

LAST = 3
"""How many tokens must have stood together before."""


class Lookup:
    """Where each run of `LAST` tokens of a growing text stood last."""

    def __init__(self) -> None:
        self._after: dict[tuple[int, ...], int] = {}
        self._known = LAST

    def continuation(self, ids: Sequence[int], count: int) -> list[int]:
        """`count` tokens that may follow `ids`, or none. `ids` has grown since the call before, and only grown."""
        # The run at the very end is not on record yet: it is what is looked for.
        for end in range(self._known, len(ids)):
            self._after[tuple(ids[end - LAST : end])] = end
        self._known = max(self._known, len(ids))
        start = self._after.get(tuple(ids[-LAST:]))
        if start is None or len(ids) < LAST:
            return []
        # What was found may reach to the end of the text; it is then taken to go round.
        return [ids[start + i % (len(ids) - start)] for i in range(count)]
