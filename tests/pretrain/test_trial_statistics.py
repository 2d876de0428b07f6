"""Intervals, autocorrelation and spectra of counts against closed forms and LDNS's own definitions."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter1d

from neurochorus.pretrain.evaluation.trial_statistics import (
    SmoothedComponents,
    count_autocorrelation,
    interval_statistics,
    power_spectra,
    rmse,
)


def test_spikes_of_a_bin_are_spread_evenly_inside_it() -> None:
    counts = np.array([[[2], [0], [1]], [[1], [0], [1]]])  # at 1/3, 2/3, 2.5 and 0.5, 2.5 bins
    mean, sd = interval_statistics(counts, bin_s=0.01)
    intervals = 0.01 * np.array([1 / 3, 11 / 6, 2.0])
    np.testing.assert_allclose(mean, [intervals.mean()])
    np.testing.assert_allclose(sd, [intervals.std()])


def test_intervals_are_those_of_ldns() -> None:
    """np.linspace(start, start + width, n + 2)[1:-1] in each bin, differences within trials, pooled over trials."""
    counts = np.random.default_rng(0).poisson(0.6, size=(4, 30, 3)).astype(np.uint8)
    for unit in range(3):
        intervals: list[float] = []
        for trial in counts[..., unit]:
            times = [np.linspace(b * 0.005, (b + 1) * 0.005, n + 2)[1:-1] for b, n in enumerate(trial)]
            intervals.extend(np.diff(np.concatenate(times)))
        mean, sd = interval_statistics(counts, bin_s=0.005)
        assert mean[unit] == pytest.approx(np.mean(intervals), rel=1e-9)
        assert sd[unit] == pytest.approx(np.std(intervals), rel=1e-9)


def test_intervals_of_poisson_spikes_are_exponential() -> None:
    counts = np.random.default_rng(1).poisson([0.02, 0.05], size=(10, 20_000, 2))
    mean, sd = interval_statistics(counts, bin_s=0.01)
    np.testing.assert_allclose(mean, [0.5, 0.2], rtol=0.06)
    np.testing.assert_allclose(sd, mean, rtol=0.06)


def test_units_without_an_interval_have_none() -> None:
    counts = np.zeros((2, 5, 2), dtype=np.uint8)
    counts[:, 3, 0] = 1  # one spike a trial: no interval spans trials
    mean, sd = interval_statistics(counts, bin_s=0.01)
    assert np.isnan(mean).all()
    assert np.isnan(sd).all()
    assert np.isnan(rmse(mean, mean))
    assert rmse(np.array([1.0, np.nan]), np.array([4.0, 5.0])) == 3.0


def test_autocorrelation_of_a_moving_average() -> None:
    """c_t = e_t + e_{t-1} has autocorrelation 1/2 at lag 1 and none later; a unit that never varies is left out."""
    events = np.random.default_rng(2).poisson(1.0, size=(300, 65, 3))
    counts = events[:, 1:] + events[:, :-1]
    counts[..., 2] = 4
    np.testing.assert_allclose(count_autocorrelation(counts, 4), [0.5, 0, 0, 0], atol=0.02)


def test_autocorrelation_is_the_mean_product_over_pairs_within_trials() -> None:
    counts = np.random.default_rng(3).poisson(2.0, size=(150, 11, 1))
    deviations = counts[..., 0] - counts.mean()
    expected = [np.mean(deviations[:, lag:] * deviations[:, : 11 - lag]) / deviations.var() for lag in range(1, 11)]
    np.testing.assert_allclose(count_autocorrelation(counts, 10), expected, rtol=1e-4, atol=1e-6)
    with pytest.raises(ValueError, match="lags: 11; expected 1 to 10"):
        count_autocorrelation(counts, 11)


def test_spectrum_of_white_noise_is_flat_at_its_density() -> None:
    """One-sided density of independent values of variance v: 2 v times the width of a bin."""
    series = 3 * np.random.default_rng(4).standard_normal((2000, 128, 1))
    spectrum = power_spectra(series, bin_s=0.01, smoothing_bins=0.5)
    np.testing.assert_allclose(spectrum[1:], np.log10(2 * 9 * 0.01), atol=0.06)  # the first loses with the mean


def test_spectrum_shows_a_rhythm_where_it_is_and_ends_where_smoothing_does() -> None:
    times = 0.01 * np.arange(200)
    phase = np.random.default_rng(5).uniform(0, 2 * np.pi, size=(20, 1))
    series = np.sin(2 * np.pi * 4 * times + phase)[..., None]
    spectrum = power_spectra(series, bin_s=0.01, smoothing_bins=3.0)  # 0.5 Hz apart, to sqrt(ln 10) / (2 pi 0.03 s)
    assert len(spectrum) == int(np.sqrt(np.log(10)) / (2 * np.pi * 0.03) / 0.5)
    assert spectrum[:, 0].argmax() == 7  # 4 Hz


def test_components_find_what_units_share_and_smooth_it() -> None:
    rng = np.random.default_rng(6)
    shared = gaussian_filter1d(rng.standard_normal((250, 100, 1)), 5, axis=1)
    direction = np.array([0.8, -0.6, 0.0])
    counts = 20 + 10 * shared * direction + 0.1 * rng.standard_normal((250, 100, 3))
    components = SmoothedComponents(counts, 1, smoothing_bins=2.0)
    assert abs(components.vectors_CK[:, 0] @ direction) > 0.999
    expected = gaussian_filter1d(counts - counts.mean(axis=(0, 1)), 2.0, axis=1) @ components.vectors_CK
    np.testing.assert_allclose(components(counts), expected, atol=1e-4)
    with pytest.raises(ValueError, match="components: 4; expected 1 to 3"):
        SmoothedComponents(counts, 4, smoothing_bins=2.0)
