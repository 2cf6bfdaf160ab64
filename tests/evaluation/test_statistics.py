"""Intervals, held to published values."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest

from eft_gguf.evaluation.statistics import gap_closed, mcnemar, paired_interval, wilson


def test_wilson_agrees_with_published_values() -> None:
    # Newcombe (1998), table I: 81 of 263 and 0 of 20.
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)
    assert wilson(0, 20) == pytest.approx((0.0, 0.1611), abs=1e-4)
    assert wilson(0, 0) == (0.0, 1.0)


@pytest.mark.parametrize("gained, lost", [(0, 0), (1, 0), (5, 5), (9, 1), (1, 9), (23, 7)])
def test_mcnemar_is_the_binomial_test_on_the_questions_that_differ(gained: int, lost: int) -> None:
    expected = binomtest(gained, gained + lost).pvalue if gained + lost else 1.0
    assert mcnemar(gained, lost) == pytest.approx(expected)


def test_the_paired_interval_by_hand_and_its_coverage() -> None:
    # (7 − 25) / 53 ± 1.96 · √(33 − 18² / 53) / 53.
    assert paired_interval(7, 25, 51) == pytest.approx((-0.5313, -0.1479), abs=1e-4)
    assert paired_interval(0, 0, 10) == pytest.approx((-0.1633, 0.1633), abs=1e-4)
    rng = np.random.default_rng(0)
    covered = 0
    for gained, lost, _ in rng.multinomial(60, [0.15, 0.05, 0.8], size=4000):
        low, high = paired_interval(int(gained), int(lost), 60)
        covered += low <= 0.1 <= high
    # 95 %, with the binomial spread of 4,000 trials and a rule that is approximate.
    assert 0.94 < covered / 4000 < 0.98


def test_the_share_of_a_gap_and_its_interval() -> None:
    start, end = np.zeros(400), np.ones(400)
    reached = np.repeat([1.0, 0.0], 200)
    closed = gap_closed(start, reached, end)
    assert closed is not None and closed.value == 0.5
    # With a gap of 1 for every question it is the interval of a share.
    assert (closed.low, closed.high) == pytest.approx(wilson(200, 400), abs=0.01)
    assert gap_closed(start, reached, end) == closed
    assert gap_closed(start, reached, start) is None
    assert gap_closed(end, reached, start) is None
    assert gap_closed(*(np.empty(0),) * 3) is None
