"""What is made of readings, on replies whose figures can be worked out by hand."""

from __future__ import annotations

import pytest

from eft_gguf.evaluation.tokens import Reading, summarise


def reading(changed: str, variation: list[float] | None = None) -> Reading:
    """changed: a letter a token, x where the likeliest changes."""
    flags = [letter == "x" for letter in changed]
    values = variation or [float(flag) for flag in flags]
    words = ("said", "tuned", "blend") if any(flags) else None
    return Reading(values, flags, ["base" if flag else "both" for flag in flags], words)


def test_shares_histogram_and_places() -> None:
    found = summarise([reading("x...", [0.9, 0.04, 0.2, 0.06]), reading("..", [0.0, 0.6])])
    assert found.mean.value == pytest.approx(1.8 / 6) and found.mean.tokens == 6
    assert found.changed.value == pytest.approx(1 / 6)
    assert found.near.value == pytest.approx(3 / 6) and found.far.value == pytest.approx(2 / 6)
    assert sum(found.histogram) == 6 and found.histogram[0] == 2 and found.histogram[18] == 1
    assert {start: (mean.tokens, changed.value) for start, (mean, changed) in found.places.items()} == {
        0: (2, 0.5),
        1: (2, 0.0),
        2: (2, 0.0),
    }
    assert found.decided["base"].value == pytest.approx(1 / 6)
    assert found.examples == [("said", "tuned", "blend")]


@pytest.mark.parametrize(
    ("changed", "length", "accepted", "tokens"),
    [
        ("....", 1, 2 / 2, 4 / 2),  # a draft, and the one that verification gives
        ("....", 3, 3 / 3, 4 / 1),
        (".x..", 2, 3 / 4, 4 / 2),  # one of two, then the changed one; then two of two
        ("xxxx", 2, 0.0, 1.0),
        ("..x.....", 4, 6 / 8, 8 / 2),
    ],
)
def test_greedy_drafts_by_hand(changed: str, length: int, accepted: float, tokens: float) -> None:
    found = summarise([reading(changed)]).drafts
    assert found[length] == pytest.approx((accepted, tokens))


def test_intervals_are_over_replies_not_tokens() -> None:
    alike = summarise([reading("x.......") for _ in range(50)])
    assert alike.changed.low == alike.changed.high == 1 / 8
    apart = summarise([reading("xxxxxxxx")] * 6 + [reading("........")] * 44)
    # A binomial interval of 400 independent tokens would be 0.09 to 0.15.
    assert apart.changed.low < 0.06 and apart.changed.high > 0.19
