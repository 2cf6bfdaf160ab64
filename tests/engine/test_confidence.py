import pytest

from eft_gguf.engine.confidence import BEGINNING, OVER, Confidence, Gain


def test_what_is_sure_is_expected_to_be_taken_until_it_is_not():
    confidence = Confidence()
    expected = [confidence.expected(sureness) for sureness in (0.0, 0.29, 0.3, 0.6, 0.9, 0.96, 1.0)]
    assert expected == sorted(expected) and expected[0] == expected[1] < expected[2]
    for _ in range(60):
        confidence.see(0.97, 0.5)
    assert confidence.expected(0.96) == pytest.approx(0.5, abs=0.02)
    assert confidence.expected(1.0) > 0.95  # another class


def test_the_gain_is_tokens_for_the_cost_of_a_plain_step_and_never_below_one():
    gain = Gain()
    assert gain.rate == 1.0
    gain.see(15, 5.0)
    assert gain.rate == pytest.approx((BEGINNING + 15) / (BEGINNING + 5))
    for _ in range(200):
        gain.see(1, 2.0)
    assert gain.rate == 1.0 and gain.steps == OVER
    for _ in range(1000):
        gain.see(4, 2.0)
    assert gain.rate == pytest.approx(2.0, abs=0.01)  # what is long past is forgotten
