"""Intervals, held to published values."""

from __future__ import annotations

import pytest

from eft_gguf.evaluation.statistics import wilson


def test_wilson_agrees_with_published_values() -> None:
    # Newcombe (1998), table I: 81 of 263 and 0 of 20.
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)
    assert wilson(0, 20) == pytest.approx((0.0, 0.1611), abs=1e-4)
    assert wilson(0, 0) == (0.0, 1.0)
