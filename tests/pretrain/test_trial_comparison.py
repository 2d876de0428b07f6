"""Distances between sets of trials: closed forms, and what equal, copied and different trials give."""

import numpy as np
import pytest
from scipy.stats import norm

from neurochorus.pretrain.evaluation.trial_comparison import (
    COPYING,
    DEFINITIONS,
    ComparisonConfig,
    TrialComparison,
    largest_population_count,
    mean_sizes,
)
from neurochorus.pretrain.evaluation.trial_distances import energy_distance, memorisation, nearest_distances


def test_energy_distance_of_shifted_gaussians() -> None:
    """X - Y ~ N(d, 2) and X - X' ~ N(0, 2): 2 E|N(d, 2)| - 2 E|N(0, 2)|."""
    rng, shift, sd = np.random.default_rng(0), 1.5, np.sqrt(2)
    first, second = rng.standard_normal((4000, 1)), shift + rng.standard_normal((4000, 1))
    folded = 2 * sd * norm.pdf(shift / sd) + shift * (2 * norm.cdf(shift / sd) - 1)
    exact = 2 * folded - 2 * 2 / np.sqrt(np.pi)
    assert energy_distance(first, second) == pytest.approx(exact, rel=0.08)
    assert energy_distance(first, rng.standard_normal((4000, 1))) == pytest.approx(0, abs=0.01)
    with pytest.raises(ValueError, match="sets of 1 and 4000 trials"):
        energy_distance(first[:1], second)


def test_energy_distance_is_unbiased() -> None:
    """With 4 trials a set the mean over many draws is 0, though single values are not."""
    rng = np.random.default_rng(1)
    values = [energy_distance(rng.standard_normal((4, 2)), rng.standard_normal((4, 2))) for _ in range(3000)]
    assert abs(np.mean(values)) < 4 * np.std(values) / np.sqrt(len(values))
    assert np.std(values) > 0.2


def test_copies_are_told_from_new_trials() -> None:
    rng = np.random.default_rng(2)
    train, held_out, new = (rng.standard_normal((count, 10)) for count in (800, 500, 500))
    copies = train[:500] + 0.1 * rng.standard_normal((500, 10))
    known = nearest_distances(held_out, train)
    assert known[3] == pytest.approx(np.linalg.norm(train - held_out[3], axis=1).min())
    fair, copied = (
        memorisation(nearest_distances(new, train), known),
        memorisation(nearest_distances(copies, train), known),
    )
    assert fair.distance_ratio == pytest.approx(1, abs=0.05)
    assert fair.close_share < 0.03
    assert copied.distance_ratio < 0.3
    assert copied.close_share == 1


def counts_of(rng: np.random.Generator, trials: int, speed: float = 0.1) -> np.ndarray:
    """Six units that follow a rhythm with a phase of its own in each trial, (trials, 60, 6)."""
    phase = rng.uniform(0, 2 * np.pi, size=(trials, 1, 1))
    time = np.arange(60)[:, None]
    return rng.poisson(1 + 0.8 * np.sin(speed * 2 * np.pi * time / 6 + phase + 0.5 * np.arange(6)))


@pytest.fixture(scope="module")
def comparison() -> TrialComparison:
    rng = np.random.default_rng(3)
    return TrialComparison(counts_of(rng, 400), counts_of(rng, 200), 0.01, ComparisonConfig(lags=10, smoothing_bins=1))


def test_identical_trials_are_at_no_distance(comparison: TrialComparison) -> None:
    values = comparison.distances(comparison.held_out, 40)
    assert list(values) == list(DEFINITIONS)
    assert values.pop("nearest_ratio") == 1
    assert values.pop("close_share") == pytest.approx(0.01)
    assert values.pop("energy_distance") < 0  # a trial is then in both sets
    assert set(values.values()) == {0.0}


def test_other_trials_are_further_than_new_ones(comparison: TrialComparison) -> None:
    rng = np.random.default_rng(4)
    new, other = counts_of(rng, 200), counts_of(rng, 200, speed=0.2)
    largest = largest_population_count(comparison.held_out_NTC, new, other)
    near, far = (comparison.distances(comparison.summary(counts), largest) for counts in (new, other))
    for name in ("autocorrelation_rmse", "spectrum_rmse", "energy_distance", "sd_interval_rmse"):
        assert far[name] > 2 * abs(near[name]), name
    quiet = comparison.distances(comparison.summary(rng.binomial(new, 0.7)), largest)
    for name in ("count_kl", "count_kl_bulk", "mean_interval_rmse", "correlation_rmse", "correlation_rmse_ldns"):
        assert quiet[name] > 2 * near[name], name


def test_the_floor_is_between_disjoint_halves(comparison: TrialComparison) -> None:
    floors = comparison.halves_floor(40, splits=3)
    assert len(floors) == 3
    assert set(floors[0]) == set(DEFINITIONS) - set(COPYING)
    assert floors[0]["correlation_rmse"] != floors[1]["correlation_rmse"]
    # counts of 200 x 60 bins correlate with an error of 1 / sqrt(bins) in each half of 100 trials
    assert mean_sizes(floors)["correlation_rmse"] == pytest.approx(np.sqrt(2 / (100 * 60)), rel=0.5)
    np.testing.assert_allclose(mean_sizes([{"a": -1.0}, {"a": 3.0}])["a"], 2)
