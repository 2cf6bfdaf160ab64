"""Which questions are asked, and how scores add up."""

from __future__ import annotations

import numpy as np
import pytest

from eft_gguf import EFT, Blend
from eft_gguf.evaluation.asking import MEASURES, Scored, ask, drawn
from eft_gguf.evaluation.questions import read_questions

ITEMS = [{"id": str(number), "kind": "fact" if number % 2 else "list"} for number in range(100)]


def test_a_draw_is_the_seeds_and_its_beginning_a_fair_sample() -> None:
    assert drawn(ITEMS, 10, 1) == drawn(ITEMS, 10, 1) != drawn(ITEMS, 10, 2)
    assert len({item["id"] for item in drawn(ITEMS, None, 0)}) == len(drawn(ITEMS, 500, 0)) == 100
    # Of the first 10 of 100 each question is one as often as any other: 200 draws, 20 times each, 4.2 deviations.
    counts = np.zeros(100)
    for seed in range(200):
        counts[[int(item["id"]) for item in drawn(ITEMS, 10, seed)]] += 1
    assert abs(counts - 20).max() < 4.2 * np.sqrt(200 * 0.1 * 0.9)


def test_shares_leave_out_what_a_measure_does_not_apply_to() -> None:
    scores = {"facts": np.array([[1, np.nan, 0, 1], [0, np.nan, 0, 0]]), "caution": np.array([[0.5, 1, 0, 1], [0] * 4])}
    scored = Scored(ITEMS[:4], scores)
    assert (scored.share(0, "facts").right, scored.share(0, "facts").asked) == (2, 3)
    assert (scored.share(0, "caution").right, scored.share(0, "caution").asked) == (2.5, 4)
    assert (scored.share(0, "facts", ["fact"]).right, scored.share(0, "facts", ["fact"]).asked) == (1, 1)
    plain = scored.as_dict(1)
    assert plain["scores"]["facts"] == {"right": 0, "asked": 3, "share": 0, "low": 0, "high": pytest.approx(0.561497)}
    assert set(plain["kinds"]) == {"fact", "list"} and plain["kinds"]["list"]["caution"]["asked"] == 2


def test_replies_are_scored_each_under_its_own_blend() -> None:
    items = [item for item in read_questions() if item["id"] in ("fact-003", "fact-004", "unknown-001")]
    told: list[tuple[int, int]] = []
    with EFT.bundled() as eft:
        scored = ask(eft, items, [Blend(), Blend(1, 0)], progress=lambda done, total: told.append((done, total)))
    assert told == [(1, 3), (2, 3), (3, 3)] and not scored.interrupted
    assert set(scored.scores) == set(MEASURES)
    assert scored.scores["helpful"].tolist() == [[1, 1, 1], [0, 0, 0]]
    assert scored.scores["facts"][:, :2].tolist() == [[1, 1], [1, 1]] and np.isnan(scored.scores["facts"][:, 2]).all()
