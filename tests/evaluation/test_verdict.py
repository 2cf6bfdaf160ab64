"""The rule of the verdict, on counts whose tests are known."""

from __future__ import annotations

import pytest

from eft_gguf.evaluation.verdict import compare, decide


def outcomes(right: int, wrong: int) -> list[bool]:
    return [True] * right + [False] * wrong


def test_a_comparison_counts_pairs() -> None:
    one = compare("base", [True, True, False, False, True], [True, False, True, False, False])
    assert (one.asked, one.blend_right, one.rival_right, one.gained, one.lost) == (5, 3, 2, 2, 1)


@pytest.mark.parametrize(
    ("blend", "rivals", "word", "reason"),
    [
        # 30 more and none less: p = 2⁻²⁹.
        (outcomes(80, 20), {"base": outcomes(0, 100), "tuned": outcomes(50, 50)}, "worth it", "against 50 of tuned"),
        # Better than one rival, level with the other.
        (outcomes(80, 20), {"base": outcomes(80, 20), "tuned": outcomes(50, 50)}, "not worth it", "over base alone"),
        (outcomes(0, 100), {"base": outcomes(0, 100), "tuned": outcomes(0, 100)}, "not worth it", "less than 5 points"),
        (
            outcomes(50, 50),
            {"base": outcomes(80, 20), "tuned": outcomes(0, 100)},
            "not worth it",
            "base alone does better",
        ),
        # All five won: p = 0.0625.
        (outcomes(5, 0), {"base": outcomes(0, 5), "tuned": outcomes(0, 5)}, "undecided", "5 prompts are too few"),
        (outcomes(0, 5), {"base": outcomes(0, 5), "tuned": outcomes(0, 5)}, "undecided", "5 prompts are too few"),
        (outcomes(58, 42), {"base": outcomes(56, 44)[::-1], "tuned": outcomes(0, 100)}, "undecided", "from base alone"),
        # As many successes, on other prompts: the difference is not sure, and one model does.
        (
            outcomes(40, 10),
            {"base, shown": outcomes(40, 10)[::-1], "tuned": outcomes(0, 50)},
            "not worth it",
            "base, shown is as good, and runs one model instead of three: 40 successes in 50 against 40",
        ),
        ([], {"base": [], "tuned": []}, "undecided", "no prompt to report on says what a good reply is"),
    ],
)
def test_the_rule(blend: list[bool], rivals: dict[str, list[bool]], word: str, reason: str) -> None:
    verdict, comparisons = decide(blend, rivals)
    assert verdict.word == word and reason in verdict.reason
    assert [one.rival for one in comparisons] == list(rivals)


def test_a_gain_that_is_sure_but_small_is_not_worth_it() -> None:
    verdict, (one,) = decide(outcomes(520, 480), {"base": outcomes(500, 500)})
    assert one.wins and verdict.word == "not worth it" and "+1.1 to +2.9 points" in verdict.reason
