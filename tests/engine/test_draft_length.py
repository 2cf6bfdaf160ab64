import numpy as np
import pytest

from eft_gguf.engine.draft_length import LIMIT, PRIOR, Acceptance, Costs, Prospect, best_length, round_seconds

BASE, UNTUNED, TUNED = range(3)
ALL = (BASE, UNTUNED, TUNED)


def linear(first, more):
    return np.array([0.0, *(first + more * n for n in range(LIMIT + 1))])


def acceptance(rate):
    return Acceptance(rate)


def test_expected_tokens_are_the_geometric_sum():
    np.testing.assert_allclose(acceptance(0.5).expected()[:4], [1, 1.5, 1.75, 1.875])
    np.testing.assert_allclose(acceptance(1.0).expected(), np.arange(1, LIMIT + 2))
    np.testing.assert_allclose(acceptance(0.0).expected(), 1)


def test_a_rounds_cost_by_hand():
    costs = Costs([linear(30, 1), linear(10, 1), linear(8, 1)], step=2, draft=0.5)
    plain = 30 + 10 + 8 + 2
    # Three drafts: four single tokens on the drafter, batches of four on the others.
    drafted = (30 + 3) + (10 + 3) + 4 * 8 + 2 + 3 * 0.5
    np.testing.assert_allclose(round_seconds([Prospect(ALL, TUNED, LIMIT)], costs, 3)[[0, 3]], [plain, drafted])
    several = Costs(costs.curves, step=2, sequence=3)
    assert round_seconds([Prospect(ALL, TUNED, 4)] * 2, several, 0)[0] == 31 + 11 + 9 + 2 + 2 * 3
    looked_up = (30 + 3) + (10 + 3) + (8 + 3) + 2 + 3 * 0.5
    assert round_seconds([Prospect(ALL, None, LIMIT)], costs, 3)[3] == pytest.approx(looked_up)


def test_sequences_share_batches_and_each_drafts_what_it_can():
    costs = Costs([linear(30, 1), linear(10, 1), linear(8, 1)])
    prospects = [Prospect(ALL, TUNED, 2), Prospect(ALL, TUNED, 5), Prospect((BASE,), None, 0)]
    # Verified are 3 + 4 + 1 tokens on base, 3 + 4 on untuned; the drafter decodes 2, 2 and 1, and the last of both.
    expected = (30 + 7) + (10 + 6) + 2 * (8 + 1) + 8 + (8 + 1)
    assert round_seconds(prospects, costs, 3)[3] == pytest.approx(expected)


def test_beyond_what_was_measured_costs_go_on_as_before():
    costs = Costs([linear(30, 2)])
    prospects = [Prospect((BASE,), None, LIMIT)] * 4
    assert round_seconds(prospects, costs, 8)[8] == pytest.approx(30 + 2 * 35)


def test_cheap_verification_calls_for_drafts_and_dear_one_for_none():
    cheap = Costs([linear(100, 1), linear(10, 0.1), linear(10, 0.1)])
    dear = Costs([linear(100, 100), linear(10, 10), linear(10, 10)])
    assert best_length([Prospect(ALL, TUNED, LIMIT, acceptance(0.9))], cheap, LIMIT)[0] > 4
    assert best_length([Prospect(ALL, TUNED, LIMIT, acceptance(0.9))], dear, LIMIT)[0] == 0
    assert best_length([Prospect(ALL, TUNED, LIMIT, acceptance(0.0))], cheap, LIMIT)[0] == 0
    assert best_length([Prospect(ALL, TUNED, LIMIT, acceptance(1.0))], cheap, LIMIT)[0] == LIMIT


def test_the_length_chosen_is_the_best_of_all_and_steps_in_the_curve_are_used():
    curve = linear(10, 10)
    curve[5:] = curve[5]  # batches of 5 to 17 tokens cost the same
    costs = Costs([curve, linear(1, 0), linear(1, 0)])
    best, rate = best_length([Prospect(ALL, TUNED, LIMIT, acceptance(0.95))], costs, LIMIT)
    expected = acceptance(0.95).expected()
    rates = expected / round_seconds([Prospect(ALL, TUNED, LIMIT)], costs, LIMIT)
    assert (best, rate) == (rates.argmax(), pytest.approx(rates.max()))
    assert best > 4


def test_acceptance_is_learned_and_forgotten():
    learned = Acceptance()
    assert learned.rate == PRIOR
    for _ in range(10):
        learned.see(0.1)
    assert learned.rate < 0.25
    for _ in range(200):
        learned.see(1.0)
    assert learned.rate > 0.95
