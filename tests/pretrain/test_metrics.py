"""Scores against formulas written out plainly (nlb_tools, MtM, BrainWideBench) and against closed forms."""

import doctest

import numpy as np
import pytest
from scipy.special import gammaln
from scipy.stats import norm

from neurochorus.pretrain.evaluation import metrics
from neurochorus.pretrain.evaluation.metrics import (
    bits_per_spike,
    bits_per_spike_by_unit,
    central_coverage,
    fair_crps,
    poisson_d2,
    poisson_nll,
    poisson_nll_by_unit,
    r2,
)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(7)


@pytest.fixture
def problem(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Counts (20, 10, 6) drawn from rates that differ over trials, bins and units, and other rates."""
    truth = rng.gamma(2.0, 0.3, size=(20, 10, 6))
    return rng.poisson(truth).astype(float), truth * rng.uniform(0.5, 1.5, size=truth.shape)


def nlb_neg_log_likelihood(rates: np.ndarray, spikes: np.ndarray) -> float:
    """nlb_tools evaluation.py `neg_log_likelihood` with zero_warning, line for line but without editing."""
    mask = np.isnan(spikes)
    rates, spikes = rates[~mask].copy(), spikes[~mask]
    rates[rates == 0] = 1e-9
    return np.sum(rates - spikes * np.log(rates) + gammaln(spikes + 1.0))


def nlb_bits_per_spike(rates: np.ndarray, spikes: np.ndarray) -> float:
    """nlb_tools evaluation.py `bits_per_spike`."""
    nll_model = nlb_neg_log_likelihood(rates, spikes)
    null_rates = np.tile(np.nanmean(spikes, axis=(0, 1), keepdims=True), (spikes.shape[0], spikes.shape[1], 1))
    nll_null = nlb_neg_log_likelihood(null_rates, spikes)
    return (nll_null - nll_model) / np.nansum(spikes) / np.log(2)


def test_the_examples_in_the_docstrings_hold():
    results = doctest.testmod(metrics)
    assert results.attempted >= 3
    assert results.failed == 0


@pytest.mark.parametrize("missing", [0.0, 0.3])
@pytest.mark.parametrize("zero_rates", [0, 5])
def test_likelihood_and_bits_per_spike_are_those_of_nlb_tools(problem, rng, missing: float, zero_rates: int):
    counts, rates = problem
    counts[rng.random(counts.shape) < missing] = np.nan
    rates.reshape(-1)[:zero_rates] = 0.0
    assert poisson_nll(counts, rates) == pytest.approx(nlb_neg_log_likelihood(rates, counts), rel=1e-12)
    assert bits_per_spike(counts, rates) == pytest.approx(nlb_bits_per_spike(rates, counts), rel=1e-12)


def test_what_was_not_recorded_may_be_predicted_in_any_way(problem):
    counts, rates = problem
    counts[3] = np.nan
    expected = bits_per_spike(counts, rates)
    rates[3] = np.nan
    assert bits_per_spike(counts, rates) == expected
    assert poisson_d2(counts, rates) == poisson_d2(np.delete(counts, 3, axis=0), np.delete(rates, 3, axis=0))


def test_the_callers_arrays_are_not_edited(problem):
    counts, rates = problem
    counts[0, 0, 0], rates[1, 1] = np.nan, 0.0
    counts_before, rates_before = counts.copy(), rates.copy()
    for score in (poisson_nll, bits_per_spike, bits_per_spike_by_unit, poisson_d2, r2):
        score(counts, rates)
    np.testing.assert_array_equal(counts, counts_before)
    np.testing.assert_array_equal(rates, rates_before)


def test_counts_of_small_integer_types_do_not_wrap(problem):
    counts, rates = problem
    counts[0, 0, 0] = 255.0
    assert bits_per_spike(counts.astype(np.uint8), rates) == pytest.approx(bits_per_spike(counts, rates), rel=1e-12)


def test_bits_per_spike_of_the_true_rates_is_their_information(rng):
    """Poisson with known rates: E[bits/spike] = sum r log2(r / mean r) / sum r."""
    levels = np.array([[0.1, 0.9], [0.4, 1.6]])  # two states, two units
    rates = levels[rng.integers(0, 2, size=(4000, 20))]
    expected = np.sum(levels * np.log2(levels / levels.mean(axis=0))) / levels.sum()
    assert bits_per_spike(rng.poisson(rates), rates) == pytest.approx(expected, abs=0.004)


def test_another_null_shifts_the_score_by_its_own_gain(problem):
    counts, rates = problem
    other = np.full(counts.shape[-1], 0.4)
    difference = bits_per_spike(counts, rates, null_rates=other) - bits_per_spike(counts, rates)
    assert difference == pytest.approx(-bits_per_spike(counts, np.broadcast_to(other, counts.shape)), rel=1e-9)
    assert bits_per_spike(counts, np.broadcast_to(other, counts.shape), null_rates=other) == 0


def test_pooled_and_per_unit_bits_per_spike_are_different_quantities():
    """Unit 0: 1 spike in 2 bins, known exactly; unit 1: 9 spikes in each of 2 bins, nothing to know."""
    counts = np.array([[[1.0, 9.0], [0.0, 9.0], [0.0, 9.0]]])
    rates = np.array([[[1.0, 9.0], [0.0, 9.0], [0.0, 9.0]]])
    by_unit = bits_per_spike_by_unit(counts, rates)
    np.testing.assert_allclose(by_unit, [np.log2(3), 0.0], atol=1e-6)
    assert bits_per_spike(counts, rates) == pytest.approx(np.log2(3) / 28, abs=1e-6)


def test_a_unit_without_spikes_has_no_score_of_its_own_but_costs_the_pool(problem):
    counts, rates = problem
    counts[..., 2] = 0
    assert np.isnan(bits_per_spike_by_unit(counts, rates)[2])
    kept = [0, 1, 3, 4, 5]
    assert bits_per_spike(counts, rates) < bits_per_spike(counts[..., kept], rates[..., kept])
    for null in (None, np.full(6, 0.4)):
        expected = poisson_d2(counts[..., kept], rates[..., kept], None if null is None else null[kept])
        assert poisson_d2(counts, rates, null) == pytest.approx(expected, rel=1e-12)


def test_likelihood_by_unit_sums_to_the_whole(problem):
    counts, rates = problem
    by_unit = poisson_nll_by_unit(counts, rates)
    assert by_unit.shape == (6,)
    assert by_unit[4] == pytest.approx(poisson_nll(counts[..., 4], rates[..., 4]), rel=1e-12)
    assert by_unit.sum() == pytest.approx(poisson_nll(counts, rates), rel=1e-12)


def test_d2_is_one_minus_the_ratio_of_deviances(problem):
    counts, rates = problem

    def deviance(unit: int, predicted: np.ndarray) -> float:
        n, r = counts[..., unit].ravel(), predicted.ravel()
        spiking = n > 0
        return 2 * (np.sum(n[spiking] * np.log(n[spiking] / r[spiking])) - np.sum(n - r))

    means = counts.mean(axis=(0, 1))
    ratios = [deviance(u, rates[..., u]) / deviance(u, np.full(counts.shape[:2], means[u])) for u in range(6)]
    assert poisson_d2(counts, rates) == pytest.approx(1 - np.mean(ratios), rel=1e-7)  # rate 0 counts as 1e-9
    assert poisson_d2(counts, counts) == pytest.approx(1.0, abs=1e-6)
    assert poisson_d2(counts, np.broadcast_to(means, counts.shape)) == pytest.approx(0.0, abs=1e-12)


def test_d2_drops_units_whose_count_never_varies(problem):
    counts, rates = problem
    kept = poisson_d2(counts[..., 1:], rates[..., 1:])
    counts[..., 0] = 3
    assert poisson_d2(counts, rates) == pytest.approx(kept, rel=1e-12)
    with pytest.raises(ValueError, match="no deviance"):
        poisson_d2(counts[..., :1], rates[..., :1])


def test_r2_averages_units_as_asked_and_drops_what_never_varies(rng):
    signal = rng.normal(size=(30, 8, 3)) * [1.0, 5.0, 0.0]
    predicted = signal + rng.normal(size=signal.shape) * [0.5, 1.0, 1.0]
    signal[0, :3, 0] = np.nan
    each = []
    for unit in (0, 1):
        y, f = signal[..., unit].ravel(), predicted[..., unit].ravel()
        y, f = y[~np.isnan(y)], f[~np.isnan(y)]
        each.append((np.sum((y - f) ** 2), np.sum((y - y.mean()) ** 2)))
    residual, total = np.transpose(each)
    assert r2(signal, predicted) == pytest.approx(np.mean(1 - residual / total), rel=1e-9)
    assert r2(signal, predicted, "variance") == pytest.approx(1 - residual.sum() / total.sum(), rel=1e-9)
    with pytest.raises(ValueError, match="not defined"):
        r2(signal[..., 2:], predicted[..., 2:])
    with pytest.raises(ValueError, match="'uniform' or 'variance'"):
        r2(signal, predicted, "median")  # type: ignore[arg-type]


def test_crps_is_the_fair_pairwise_form(rng):
    observed, samples = rng.normal(size=(4, 3)), rng.normal(size=(5, 4, 3))
    pairs = [np.abs(samples[i] - samples[j]) for i in range(5) for j in range(5) if i != j]
    expected = np.abs(samples - observed).mean(axis=0) - np.mean(pairs, axis=0) / 2
    np.testing.assert_allclose(fair_crps(observed, samples), expected, rtol=1e-10)


@pytest.mark.parametrize("samples", [2, 50])
def test_crps_of_gaussian_samples_has_the_closed_form_for_any_number_of_samples(rng, samples: int):
    """Gneiting and Raftery 2007, eq. 21; the unfair estimator would be off by 0.28 with two samples."""
    observed, mean, sd, trials = 0.7, 0.2, 0.5, 40_000
    z = (observed - mean) / sd
    exact = sd * (z * (2 * norm.cdf(z) - 1) + 2 * norm.pdf(z) - 1 / np.sqrt(np.pi))
    drawn = rng.normal(mean, sd, size=(samples, trials))
    assert fair_crps(np.full(trials, observed), drawn).mean() == pytest.approx(exact, abs=0.008)


def test_crps_is_missing_only_where_nothing_was_observed(rng):
    observed, samples = np.array([0.0, np.nan, 1.0]), rng.normal(size=(4, 3))
    samples[:, 1] = np.nan
    np.testing.assert_array_equal(np.isnan(fair_crps(observed, samples)), [False, True, False])


@pytest.mark.parametrize("level", [0.5, 0.9, 0.95])
@pytest.mark.parametrize("samples", [5, 16])
@pytest.mark.parametrize("kind", ["gaussian", "sparse counts"])
def test_draws_from_the_truth_are_covered_at_the_level(rng, level: float, samples: int, kind: str):
    shape = (samples + 1, 40_000)
    drawn = rng.normal(size=shape) if kind == "gaussian" else rng.poisson(0.3, size=shape)
    assert central_coverage(drawn[0], drawn[1:], level) == pytest.approx(level, abs=0.008)


def test_narrow_ensembles_cover_less_and_wide_ones_more(rng):
    observed, samples = rng.normal(size=5000), rng.normal(size=(40, 5000))
    assert central_coverage(observed, 0.5 * samples, 0.9) < 0.65
    assert central_coverage(observed, 2.0 * samples, 0.9) > 0.97


def test_coverage_by_hand():
    """Three samples, ranks of a quarter each; a central half is [1/4, 3/4]."""
    samples = np.array([1.0, 2.0, 3.0])[:, None]
    assert central_coverage(np.array([0.0]), samples, 0.5) == 0.0
    assert central_coverage(np.array([1.5]), samples, 0.5) == 1.0
    assert central_coverage(np.array([1.0]), samples, 0.5) == pytest.approx(0.5)  # rank 0 or 1
    assert central_coverage(np.array([1.5, np.nan, 9.0]), np.repeat(samples, 3, axis=1), 0.5) == 0.5


def test_mistakes_are_named(problem, rng):
    counts, rates = problem
    with pytest.raises(ValueError, match=r"no spikes in the evaluated counts of shape \(20, 10, 6\)"):
        bits_per_spike(np.zeros_like(counts), rates)
    with pytest.raises(ValueError, match="not log rates"):
        poisson_nll(counts, np.log(rates))
    with pytest.raises(ValueError, match=r"shape \(20, 10, 5\), expected \(20, 10, 6\)"):
        poisson_nll(counts, rates[..., :5])
    rates[0, 0, :2] = np.nan
    with pytest.raises(ValueError, match="2 NaN"):
        poisson_nll(counts, rates)
    with pytest.raises(ValueError, match="at least 2 samples"):
        fair_crps(counts, counts[None])
    with pytest.raises(ValueError, match="expected"):
        fair_crps(counts, rng.normal(size=(5, 20, 10, 5)))
    with pytest.raises(ValueError, match="NaN or infinite at 1 places"):
        central_coverage(np.zeros(2), np.array([[1.0, np.nan], [1.0, 2.0]]), 0.9)
    with pytest.raises(ValueError, match="level is 90"):
        central_coverage(np.zeros(2), np.zeros((3, 2)), 90)
    with pytest.raises(ValueError, match="every value is NaN"):
        central_coverage(np.full(2, np.nan), np.zeros((3, 2)), 0.9)
