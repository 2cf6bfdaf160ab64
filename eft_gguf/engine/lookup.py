"""Prompt lookup: a draft from the text itself. Where the last tokens stood before, what followed then may follow again.

After Saxena, prompt lookup decoding (2023): worth it for code that is edited and texts that are quoted or summed up.
"""

from __future__ import annotations

from collections.abc import Sequence

LAST = 3
"""How many tokens must have stood together before."""

REPEATING = 4
"""From how many right ones in a row on a text counts as repeating itself."""


class Lookup:
    """Where each run of `LAST` tokens of a growing text stood last.

    streak: how many of the text's last tokens in a row are what would have been looked up for them.
    """

    def __init__(self) -> None:
        self.streak = 0
        self._after: dict[tuple[int, ...], int] = {}
        self._known = LAST

    def ahead(self, ids: Sequence[int]) -> Ahead:
        """A look past the end of `ids`, which have grown since the call before, and only grown."""
        # The run at the very end is not on record yet: it is what is looked for.
        for end in range(self._known, len(ids)):
            run = tuple(ids[end - LAST : end])
            start = self._after.get(run)
            self.streak = self.streak + 1 if start is not None and ids[start] == ids[end] else 0
            self._after[run] = end
        self._known = max(self._known, len(ids))
        return Ahead(ids, self._after, self.streak)

    def continuation(self, ids: Sequence[int], count: int) -> list[int]:
        """`count` tokens that may follow `ids`, or fewer where nothing is found; `ids` as for `ahead`."""
        ahead = self.ahead(ids)
        found: list[int] = []
        while len(found) < count and (token := ahead.proposal()) is not None:
            found.append(token)
            ahead.push(token)
        return found


class Ahead:
    """What would be looked up if the text went on in a certain way: with `push`, token by token."""

    def __init__(self, ids: Sequence[int], after: dict[tuple[int, ...], int], streak: int) -> None:
        self.streak = streak
        self._ids, self._after = ids, after
        self._last = tuple(ids[-LAST:])
        self._more: list[int] = []
        self._after_more: dict[tuple[int, ...], int] = {}

    def proposal(self) -> int | None:
        """What followed the last tokens before, None where they have not stood before."""
        start = self._after_more.get(self._last, self._after.get(self._last))
        if start is None:
            return None
        return self._ids[start] if start < len(self._ids) else self._more[start - len(self._ids)]

    @property
    def repeats(self) -> bool:
        """Whether the text repeats itself here, and there is something to go on with."""
        return self.streak >= REPEATING and self.proposal() is not None

    def push(self, token: int) -> None:
        """Go on by a token."""
        self.streak = self.streak + 1 if self.proposal() == token else 0
        if len(self._last) == LAST:
            self._after_more[self._last] = len(self._ids) + len(self._more)
        self._more.append(token)
        self._last = (*self._last, token)[-LAST:]
