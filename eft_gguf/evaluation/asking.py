"""Questions put to models under several settings, and what the replies score."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eft_gguf.blend.equation import Blend
from eft_gguf.eft import EFT
from eft_gguf.evaluation.questions import Item, read_rivals
from eft_gguf.evaluation.scoring import scores
from eft_gguf.evaluation.statistics import Share

MEASURES = ("facts", "single facts", "helpful", "style", "competence", "caution", "mixed")
MAX_TOKENS = 80
"""The longest reply, where nothing else is asked for."""

Progress = Callable[[int, int], None]
"""Called with the number of questions that are done, and of all."""


@dataclass(frozen=True)
class Scored:
    """What the replies under each setting score.

    items: the questions that were asked, fewer than were given where Ctrl-C came in between.
    scores: by measure, shape (settings, questions); NaN where a measure does not apply to a question.
    """

    items: Sequence[Item]
    scores: dict[str, NDArray[np.float64]]
    interrupted: bool = False

    def share(self, setting: int, measure: str, kinds: Sequence[str] = ()) -> Share:
        """A measure under one setting, over questions of some kinds or of all."""
        row = self.scores[measure][setting]
        applies = ~np.isnan(row)
        if kinds:
            applies &= np.array([item["kind"] in kinds for item in self.items], dtype=bool)
        return Share(float(row[applies].sum()), int(applies.sum()))

    def as_dict(self, setting: int) -> dict[str, Any]:
        """Every measure under one setting, over all questions and by kind, as plain values."""
        kinds = dict.fromkeys(item["kind"] for item in self.items)
        return {
            "scores": self._shares(setting, ()),
            "kinds": {kind: self._shares(setting, (kind,)) for kind in kinds},
        }

    def _shares(self, setting: int, kinds: Sequence[str]) -> dict[str, dict[str, float]]:
        shares = {measure: self.share(setting, measure, kinds) for measure in self.scores}
        return {measure: share.as_dict() for measure, share in shares.items() if share.asked}


def drawn(items: Sequence[Item], count: int | None, seed: int) -> list[Item]:
    """`count` of the questions, or all, in an order drawn by the seed: so the first ones are a fair sample of them."""
    return random.Random(seed).sample(list(items), len(items) if count is None else min(count, len(items)))


def ask(
    eft: EFT,
    items: Sequence[Item],
    blends: Sequence[Blend],
    *,
    max_tokens: int = MAX_TOKENS,
    progress: Progress = lambda done, total: None,
) -> Scored:
    """Greedy replies to every question under every blend, scored. Ctrl-C ends it with what is done so far.

    Raises what `EFT.greedy_replies` does.
    """
    rivals = read_rivals(items)
    rows = {measure: np.full((len(blends), len(items)), np.nan) for measure in MEASURES}
    done = 0
    try:
        for item in items:
            replies = eft.greedy_replies(item["messages"], blends, max_tokens=max_tokens)
            for setting, reply in enumerate(replies):
                for measure, score in scores(item, reply.text, reply.finish_reason == "stop", rivals).items():
                    rows[measure][setting, done] = score
            done += 1
            progress(done, len(items))
    except KeyboardInterrupt:
        pass
    return Scored(items[:done], {measure: row[:, :done] for measure, row in rows.items()}, done < len(items))
