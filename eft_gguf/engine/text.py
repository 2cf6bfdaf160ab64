"""Tokens → text as it may be shown: never half a character, never the beginning of a stop text."""

from __future__ import annotations

import codecs
from collections.abc import Sequence

_decoder = codecs.getincrementaldecoder("utf-8")


class TextStream:
    """Joins the bytes of tokens into text, and holds back what may yet become a stop text.

    Feed it with `push`, end it with `flush`; each returns the text that is now certain. `text` is all of it so far;
    `stopped` turns True once a stop text was met, which together with all that follows is left out.
    """

    def __init__(self, stop: Sequence[str] = ()) -> None:
        self.text = ""
        self.stopped = False
        self._stop = tuple(stop)
        self._held = ""
        # Bytes that are no UTF-8 (a model may sample them) become the replacement character.
        self._bytes = _decoder(errors="replace")

    def push(self, piece: bytes) -> str:
        """Add the bytes of one token."""
        return self._release(self._bytes.decode(piece), final=False)

    def flush(self) -> str:
        """Nothing more comes: what was held back is text after all."""
        return self._release(self._bytes.decode(b"", True), final=True)

    def _release(self, new: str, *, final: bool) -> str:
        if self.stopped:
            return ""
        held = self._held + new
        found = [at for text in self._stop if (at := held.find(text)) >= 0]
        if found:
            held, keep, self.stopped = held[: min(found)], 0, True
        else:
            keep = 0 if final else self._possible_start(held)
        certain, self._held = held[: len(held) - keep], held[len(held) - keep :]
        self.text += certain
        return certain

    def _possible_start(self, held: str) -> int:
        """The length of the longest end of `held` with which a stop text begins."""
        longest = max((len(text) - 1 for text in self._stop), default=0)
        for length in range(min(longest, len(held)), 0, -1):
            if any(text.startswith(held[-length:]) for text in self._stop):
                return length
        return 0
