"""Standard errors of ratios against the closed form for equal sizes, and against repeated draws."""

import numpy as np
import pytest

from neurochorus.pretrain.batch_losses import difference_error, standard_error


def test_of_equal_sizes_it_is_that_of_a_mean() -> None:
    losses = np.random.default_rng(0).normal(3.0, 1.0, 12)
    found = standard_error({number: (40 * loss, 40.0) for number, loss in enumerate(losses)})
    assert found == pytest.approx(losses.std(ddof=1) / np.sqrt(12))


def test_it_is_the_spread_of_the_ratio_over_repeated_draws() -> None:
    rng = np.random.default_rng(1)
    ratios, errors = [], []
    for _ in range(2000):
        bins = rng.integers(20, 60, 40).astype(float)
        sums = bins * rng.normal(2.0, 0.5, 40)
        ratios.append(sums.sum() / bins.sum())
        errors.append(standard_error(dict(enumerate(zip(sums, bins, strict=True)))))
    assert np.mean(errors) == pytest.approx(np.std(ratios), rel=0.06)


def test_of_the_same_windows_a_difference_is_surer_than_either() -> None:
    rng = np.random.default_rng(2)
    level, noise = rng.normal(3.0, 1.0, 12), rng.normal(0.0, 0.01, 12)
    one = {number: (10 * value, 10.0) for number, value in enumerate(level)}
    other = {number: (10 * value, 10.0) for number, value in enumerate(level + noise)}
    assert difference_error(one, other) == pytest.approx(noise.std(ddof=1) / np.sqrt(12))
    assert difference_error(one, {**other, 3: (30.0, 9.0)}) is None
    assert difference_error(one, {number: other[number] for number in range(11)}) is None
    assert difference_error({0: one[0]}, {0: other[0]}) is None
