"""Statistics of spike counts in time: intervals between spikes, autocorrelation, power spectra.

N trials, T bins, C units, K principal components, F frequencies. Definitions follow Kapoor et al. 2024 (LDNS,
`eval_utils.py`) where it has one, and say where they differ.
"""

from typing import NamedTuple

import numpy as np
from scipy.ndimage import gaussian_filter1d
from scipy.signal import periodogram

PASSED_POWER = 0.1
"Spectra are compared up to the frequency at which smoothing leaves this share of the power."
TRIALS_AT_ONCE = 100


class IntervalStatistics(NamedTuple):
    """Of each unit, in seconds, over the intervals of all trials; NaN without an interval."""

    mean_C: np.ndarray
    sd_C: np.ndarray


def interval_statistics(counts_NTC: np.ndarray, bin_s: float) -> IntervalStatistics:
    """Mean and standard deviation (n in the denominator) of the intervals between a unit's spikes.

    The n spikes of a bin are spread evenly inside it, at (j + 1) / (n + 1) of its width for j = 0 ... n - 1; no
    interval spans two trials; those of all trials are pooled (LDNS).
    """
    counts_CNT = np.ascontiguousarray(np.moveaxis(np.asarray(counts_NTC, dtype=np.int64), -1, 0))
    units, trials, bins = counts_CNT.shape
    flat = counts_CNT.reshape(-1)
    filled = np.flatnonzero(flat)
    spikes = flat[filled]
    place = np.repeat(filled, spikes)
    number = np.arange(len(place)) - np.repeat(np.cumsum(spikes) - spikes, spikes)
    times = (place % bins + (number + 1) / (np.repeat(spikes, spikes) + 1)) * bin_s
    train = place // bins  # number of the (unit, trial) that a spike belongs to
    same = train[1:] == train[:-1]
    intervals, unit = np.diff(times)[same], train[1:][same] // trials
    with np.errstate(invalid="ignore"):
        number_C = np.bincount(unit, minlength=units)
        mean_C = np.bincount(unit, intervals, minlength=units) / number_C
        variance_C = np.bincount(unit, (intervals - mean_C[unit]) ** 2, minlength=units) / number_C
    return IntervalStatistics(mean_C, np.sqrt(variance_C))


def count_autocorrelation(counts_NTC: np.ndarray, lags: int) -> np.ndarray:
    """Autocorrelation of a unit's counts at lags 1 to `lags` bins, mean over the units that vary, (lags,).

    Deviations from a unit's mean over all trials and bins; at each lag the mean product over all pairs of bins
    within a trial, divided by the variance. LDNS takes each trial's own mean, which biases short trials.
    Raises ValueError when a trial has no two bins that far apart.
    """
    trials, bins, units = counts_NTC.shape
    if not 0 < lags < bins:
        raise ValueError(f"lags: {lags}; expected 1 to {bins - 1} for trials of {bins} bins")
    mean_C = counts_NTC.mean(axis=(0, 1), dtype=np.float64)
    length = 1 << int(bins + lags - 1).bit_length()  # room for the lags, so that nothing wraps around
    power_FC = np.zeros((length // 2 + 1, units))
    for start in range(0, trials, TRIALS_AT_ONCE):
        deviations = (counts_NTC[start : start + TRIALS_AT_ONCE] - mean_C).astype(np.float32)
        power_FC += (np.abs(np.fft.rfft(deviations, length, axis=1)) ** 2).sum(axis=0, dtype=np.float64)
    sums = np.fft.irfft(power_FC, length, axis=0)[: lags + 1]
    covariance = sums / (trials * (bins - np.arange(lags + 1)))[:, None]
    varies = covariance[0] > 1e-12
    return (covariance[1:, varies] / covariance[0, varies]).mean(axis=1)


class SmoothedComponents:
    """Principal components of smoothed counts, found in one set of trials and applied to others."""

    def __init__(self, counts_NTC: np.ndarray, components: int, smoothing_bins: float):
        """`smoothing_bins`: sd of the Gaussian that smooths counts in time. Raises ValueError for too few units."""
        units = counts_NTC.shape[-1]
        if not 0 < components <= units:
            raise ValueError(f"components: {components}; expected 1 to {units} for {units} units")
        self.smoothing_bins = smoothing_bins
        self.mean_C = counts_NTC.mean(axis=(0, 1), dtype=np.float64)
        covariance, bins = np.zeros((units, units)), 0
        for start in range(0, len(counts_NTC), TRIALS_AT_ONCE):
            deviations = (counts_NTC[start : start + TRIALS_AT_ONCE] - self.mean_C).astype(np.float32)
            smooth = gaussian_filter1d(deviations, smoothing_bins, axis=1).reshape(-1, units)
            covariance += smooth.T @ smooth
            bins += len(smooth)
        _, vectors = np.linalg.eigh(covariance / bins)
        self.vectors_CK = vectors[:, ::-1][:, :components]

    def __call__(self, counts_NTC: np.ndarray) -> np.ndarray:
        """Components of the smoothed counts, (N, T, K)."""
        projected_NTK = (counts_NTC.astype(np.float32) - self.mean_C.astype(np.float32)) @ self.vectors_CK
        return gaussian_filter1d(projected_NTK, self.smoothing_bins, axis=1)  # both are linear: the order is free


def power_spectra(series_NTK: np.ndarray, bin_s: float, smoothing_bins: float) -> np.ndarray:
    """log10 of the mean power spectral density over trials (F, K), at the frequencies that smoothing lets through.

    Periodogram of each trial with a Hann window and its mean taken off, frequencies from 1 / (T bin_s) up to where
    the Gaussian of sd s = `smoothing_bins` passes PASSED_POWER: exp(-(2 pi f s bin_s)^2). LDNS draws the median
    over trials; the mean says more where few trials hold much of the power.
    """
    frequency, density_NFK = periodogram(series_NTK, 1 / bin_s, window="hann", detrend="constant", axis=1)
    highest = np.sqrt(-np.log(PASSED_POWER)) / (2 * np.pi * smoothing_bins * bin_s)
    chosen = (frequency > 0) & (frequency <= highest)
    return np.log10(density_NFK[:, chosen].mean(axis=0))


def rmse(generated: np.ndarray, recorded: np.ndarray) -> float:
    """Root mean squared difference over the entries defined in both; NaN without any."""
    squares = (generated - recorded) ** 2
    return float(np.sqrt(np.nanmean(squares))) if np.isfinite(squares).any() else float("nan")
