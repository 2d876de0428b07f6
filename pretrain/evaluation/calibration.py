"""How far an ensemble forecast can be trusted: ranks, coverage, spread against error and proper scores by lead time.

N windows, H bins ahead (leads), S samples, L channels (latents, or units), R = S + 1 ranks.

Everything about intervals follows from ranks. If a model is perfect, what was recorded and the S samples are
exchangeable, so the rank of the recorded value among them is each of 0 ... S with probability 1 / R, whatever the
distribution. A recorded value with b samples below and e equal to it spreads its mass evenly over the ranks b to b + e:
the randomised (rank + u) / R in the mean over u and over the order of ties (Czado, Gneiting and Held 2009), right for
counts with their many ties, and without dice. Rank r stands for the range [r, r + 1] / R, so a perfect model's expected
coverage is the level itself and its histogram flat, for any number of samples.

An interval between plain quantiles of the samples is something else: it is too narrow (`plain_interval_coverage`).
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np

from neurochorus.pretrain.evaluation.multivariate_scores import (
    MOST_VARIOGRAM_CHANNELS,
    energy_scores,
    variogram_scores,
)

LEVELS = (0.5, 0.8, 0.9, 0.95)
HISTOGRAM_BINS = 20


@dataclass(frozen=True)
class EnsembleScores:
    """What each window gave, means over its channels; `join` puts windows together.

    `variogram` scores are NaN with more than MOST_VARIOGRAM_CHANNELS channels; the one by lead also with one channel,
    the one of the stretch with one bin.
    """

    rank_NHR: np.ndarray
    "Share of channels at each rank."
    crps_NH: np.ndarray
    variance_NH: np.ndarray
    "Between samples, unbiased."
    squared_error_NH: np.ndarray
    "Of the mean over samples."
    energy_NH: np.ndarray
    variogram_NH: np.ndarray
    stretch_energy_N: np.ndarray
    stretch_variogram_N: np.ndarray

    @classmethod
    def join(cls, parts: Sequence["EnsembleScores"]) -> "EnsembleScores":
        """Windows of all parts, in order."""
        return cls(*(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(cls)))


def ensemble_scores(observed_NHL: np.ndarray, samples_SNHL: np.ndarray) -> EnsembleScores:
    """Score every window of an ensemble forecast, one after the other, so that the work stays in the cache.

    Raises ValueError for shapes that do not fit, fewer than two samples, and values that are NaN or infinite.
    """
    if samples_SNHL.shape[1:] != observed_NHL.shape or samples_SNHL.ndim != 4 or len(samples_SNHL) < 2:
        raise ValueError(
            f"samples have shape {samples_SNHL.shape}, what was recorded {observed_NHL.shape}: expected "
            "(samples, windows, bins, channels) with at least 2 samples, and (windows, bins, channels)"
        )
    for name, values in (("samples", samples_SNHL), ("recorded values", observed_NHL)):
        missing = 0 if values.dtype.kind in "ui" else int((~np.isfinite(values)).sum())
        if missing:
            raise ValueError(f"{name} are NaN or infinite at {missing} of {values.size} places: they have no rank")
    windows = [_window_scores(*pair) for pair in zip(observed_NHL, samples_SNHL.swapaxes(0, 1))]
    return EnsembleScores(*(np.stack(values) for values in zip(*windows)))


def _window_scores(observed_HL: np.ndarray, samples_SHL: np.ndarray) -> tuple[np.ndarray | float, ...]:
    """The fields of EnsembleScores for one window."""
    _, bins, channels = samples_SHL.shape
    # counts of a byte are exact in float32, at half the time
    kind = np.float32 if samples_SHL.dtype == np.uint8 else np.float64
    values_SHL, recorded_HL = samples_SHL.astype(kind), observed_HL.astype(kind)
    variogram_H, stretch_variogram = np.full(bins, np.nan), np.nan
    if channels <= MOST_VARIOGRAM_CHANNELS:
        by_lead_H, stretch = variogram_scores(recorded_HL, values_SHL)
        variogram_H = by_lead_H if channels > 1 else variogram_H
        stretch_variogram = stretch if bins > 1 else stretch_variogram
    error_SHL = values_SHL - recorded_HL
    bias_HL = error_SHL.mean(axis=0)
    energy_H, stretch_energy = energy_scores(error_SHL)
    return (
        rank_shares(observed_HL, samples_SHL),
        (np.abs(error_SHL).mean(axis=0) - _half_apart(samples_SHL)).mean(axis=1),
        error_SHL.var(axis=0, ddof=1).mean(axis=1),
        (bias_HL**2).mean(axis=1),
        energy_H,
        variogram_H,
        stretch_energy,
        stretch_variogram,
    )


def _half_apart(samples_SHL: np.ndarray) -> np.ndarray:
    """Half the mean of |x - x'| over pairs of different samples, (H, L)."""
    samples = len(samples_SHL)
    if samples_SHL.dtype == np.uint8:  # the integral of F (1 - F); small counts need a few steps, where sorting is slow
        total_HL = np.zeros(samples_SHL.shape[1:])
        for count in range(samples_SHL.max()):
            at_most_HL = (samples_SHL <= count).sum(axis=0, dtype=np.min_scalar_type(samples)).astype(np.float32)
            total_HL += at_most_HL * (samples - at_most_HL)
        return total_HL / (samples * (samples - 1))
    weights = (2 * np.arange(samples) - samples + 1) / (samples * (samples - 1))
    return np.tensordot(weights, np.sort(samples_SHL, axis=0).astype(np.float64), axes=1)


def rank_shares(observed_XL: np.ndarray, samples_SXL: np.ndarray) -> np.ndarray:
    """Share of the L channels whose recorded value has each rank among the samples, (X, R); ties spread evenly."""
    samples, (places, channels) = len(samples_SXL), observed_XL.shape
    small = np.min_scalar_type(samples)
    below_XL = (samples_SXL < observed_XL).sum(axis=0, dtype=small).astype(np.int64)
    equal_XL = (samples_SXL == observed_XL).sum(axis=0, dtype=small).astype(np.int64)
    # each adds 1 / (e + 1) from rank b on and takes it away after rank b + e; the running sum is the mass
    share = 1 / (equal_XL + 1)
    row = (samples + 2) * np.arange(places)[:, None]
    start = np.bincount((row + below_XL).ravel(), share.ravel(), places * (samples + 2))
    stop = np.bincount((row + below_XL + equal_XL + 1).ravel(), share.ravel(), places * (samples + 2))
    return np.cumsum((start - stop).reshape(places, samples + 2), axis=1)[:, :-1] / channels


def coverage(rank_share_R: np.ndarray, level: float) -> np.ndarray:
    """Share of recorded values inside the central `level` interval, of rank shares (..., R).

    Rank r counts by the part of [r, r + 1] / R inside [(1 - level) / 2, (1 + level) / 2]. Raises ValueError for a
    level that is no fraction.
    """
    if not 0 < level < 1:
        raise ValueError(f"level is {level}, expected a fraction between 0 and 1 such as 0.9")
    return rank_share_R @ _parts_inside(rank_share_R.shape[-1], np.array([(1 - level) / 2, (1 + level) / 2]))[:, 0]


def rank_histogram(rank_share_R: np.ndarray, bins: int = HISTOGRAM_BINS) -> np.ndarray:
    """Shares (..., bins) of the probability integral transform in equal parts of [0, 1]; 1 / bins each if calibrated.

    Hump: too wide. Valley: too narrow. Slope: off to one side.
    """
    return rank_share_R @ _parts_inside(rank_share_R.shape[-1], np.linspace(0, 1, bins + 1))


def _parts_inside(ranks: int, edges: np.ndarray) -> np.ndarray:
    """Part of each rank's range that lies between neighbouring edges, (ranks, edges - 1)."""
    low, high = np.arange(ranks)[:, None] / ranks, np.arange(1, ranks + 1)[:, None] / ranks
    return np.clip(np.minimum(high, edges[1:]) - np.maximum(low, edges[:-1]), 0, None) * ranks


def plain_interval_coverage(level: float, samples: int) -> float:
    """What the interval between plain quantiles of S samples covers on average when the model is perfect.

    level (S - 1) / (S + 1), for numpy's default quantiles: the quantile p lies at place (S - 1) p among the ordered
    samples, of which the k-th (from 0) has probability (k + 1) / (S + 1) below it on average. Exact where the
    distribution function is linear between neighbouring samples, so for many samples or uniform ones.

    >>> round(plain_interval_coverage(0.9, 32), 3)
    0.845
    """
    return level * (samples - 1) / (samples + 1)


def spread_skill(variance: np.ndarray, squared_error: np.ndarray, samples: int) -> np.ndarray:
    """Spread over error, sqrt((S + 1) / S mean variance) / RMSE of the mean; 1 when the samples are as wide as needed.

    Fortin et al. 2014, eq. 15. Less: over-confident. Infinite or NaN where nothing was missed.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.sqrt((samples + 1) / samples * variance / squared_error)
