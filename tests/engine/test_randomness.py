import numpy as np
from scipy.stats import kstest

from eft_gguf.engine.randomness import Purpose, uniform

SIGNIFICANCE = 1e-4


def test_numbers_go_by_seed_position_and_purpose():
    numbers = {uniform(seed, at, purpose) for seed in range(20) for at in range(20) for purpose in Purpose}
    assert len(numbers) == 20 * 20 * len(Purpose)
    assert all(0 <= number < 1 for number in numbers)
    assert uniform(7, 3, Purpose.DRAFT) == uniform(7, 3, Purpose.DRAFT)


def test_neighbours_are_uniform_and_independent():
    for numbers in (
        [[uniform(seed, 0, Purpose.TOKEN), uniform(seed + 1, 0, Purpose.TOKEN)] for seed in range(0, 40_000, 2)],
        [[uniform(1, at, Purpose.TOKEN), uniform(1, at + 1, Purpose.TOKEN)] for at in range(0, 40_000, 2)],
        [[uniform(1, at, Purpose.TOKEN), uniform(1, at, Purpose.ACCEPT)] for at in range(20_000)],
    ):
        left, right = np.array(numbers).T
        assert kstest(left, "uniform").pvalue > SIGNIFICANCE
        assert kstest(right, "uniform").pvalue > SIGNIFICANCE
        assert kstest((left + right) % 1, "uniform").pvalue > SIGNIFICANCE
