"""Scores of predicted rates, predicted signals and ensembles against what was recorded.

Arrays are (trials, bins, units), or anything whose last axis is units. Counts and signals may hold NaN
where nothing was recorded: those places are left out of every sum, whatever was predicted there.
Predictions must be finite wherever something was recorded. Nothing given by the caller is edited.

Definitions follow nlb_tools `evaluation.py` (Pei et al. 2021, the Neural Latents Benchmark) unless a
docstring names another source. A rate is an expected count per bin; a predicted rate of exactly 0
counts as 1e-9, as there. Rates of a generative model must be means over its samples: one sample's rate
is scored as over-confident.
"""

from typing import Literal

import numpy as np
import scoringrules
from numpy.typing import ArrayLike
from scipy.special import gammaln, xlogy

SMALLEST_RATE = 1e-9


def poisson_nll(counts: ArrayLike, rates: ArrayLike) -> float:
    """Negative Poisson log-likelihood of counts in nats, summed over everything recorded.

    `rates` broadcasts to the shape of `counts`. Sum of r - n ln r + ln n!.
    Raises ValueError for shapes that do not fit, and for negative or missing rates.

    >>> poisson_nll([[0, 1]], [[1.0, 1.0]])
    2.0
    """
    return float(poisson_nll_by_unit(counts, rates).sum())


def poisson_nll_by_unit(counts: ArrayLike, rates: ArrayLike) -> np.ndarray:
    """Negative Poisson log-likelihood in nats of each unit, shape (units,); see `poisson_nll`."""
    counts, rates, recorded = _matched(counts, rates, "rates")
    if (rates[recorded] < 0).any():
        raise ValueError(
            f"rates hold negative values (least: {rates[recorded].min():.3g}); a rate is an expected count "
            "per bin, 0 or more: give rates, not log rates"
        )
    rates = np.where(recorded, np.where(rates == 0, SMALLEST_RATE, rates), 1.0)
    counts = np.where(recorded, counts, 0.0)
    nll = np.where(recorded, rates - xlogy(counts, rates) + gammaln(counts + 1), 0.0)
    return nll.reshape(-1, nll.shape[-1]).sum(axis=0)


def bits_per_spike(counts: ArrayLike, rates: ArrayLike, null_rates: ArrayLike | None = None) -> float:
    """Gain in log-likelihood over a null model, in bits per spike, pooled over all units.

    (NLL(null) - NLL(rates)) / (spikes ln 2). The null is each unit's mean over the evaluated bins (the
    Benchmark's definition) unless `null_rates` gives another, such as the train means; a number made with
    another null must say so. 0 is as good as the null, below 0 is worse.
    Raises ValueError when `counts` holds no spike.

    >>> bits_per_spike([[[0], [2]]], [[[1.0], [1.0]]])
    0.0
    """
    gain, spikes = _gain_by_unit(counts, rates, null_rates)
    return float(gain.sum() / spikes.sum() / np.log(2))


def bits_per_spike_by_unit(counts: ArrayLike, rates: ArrayLike, null_rates: ArrayLike | None = None) -> np.ndarray:
    """Bits per spike of each unit alone, shape (units,); NaN for a unit without spikes.

    Its mean over units is what MtM reports. It is not `bits_per_spike`: there, units weigh by their spikes.
    """
    gain, spikes = _gain_by_unit(counts, rates, null_rates)
    return np.divide(gain, spikes * np.log(2), out=np.full(gain.shape, np.nan), where=spikes > 0)


def poisson_d2(counts: ArrayLike, rates: ArrayLike, null_rates: ArrayLike | None = None) -> float:
    """Fraction of Poisson deviance explained, per unit, then averaged over units.

    1 - (NLL(rates) - NLL(saturated)) / (NLL(null) - NLL(saturated)); the saturated model predicts every
    count itself. 1 is perfect, 0 is as good as the null; not clipped. Units without spikes are dropped, as
    are units whose count never varies (nothing to explain). As in IBL BrainWideBench `poisson_d2.py`.
    Raises ValueError when no unit is left.
    """
    counts = np.asarray(counts, dtype=float)
    gain, spikes = _gain_by_unit(counts, rates, null_rates)
    null_nll = poisson_nll_by_unit(counts, _unit_means(counts) if null_rates is None else null_rates)
    explainable = null_nll - poisson_nll_by_unit(counts, np.nan_to_num(counts))
    kept = (spikes > 0) & (explainable > 1e-9 * np.abs(null_nll))
    if not kept.any():
        raise ValueError("no unit has counts that vary over the evaluated bins, so there is no deviance to explain")
    return float(np.mean(gain[kept] / explainable[kept]))


def r2(signal: ArrayLike, predicted: ArrayLike, average: Literal["uniform", "variance"] = "uniform") -> float:
    """Coefficient of determination of a continuous signal, 1 - squared error / squared deviation, per unit.

    Units are averaged alike ("uniform", NLB) or by their variance ("variance", FALCON); units that do not
    vary over the evaluated bins are dropped. Raises ValueError when no unit is left.

    >>> r2([[0.0], [2.0]], [[0.0], [1.0]])
    0.5
    """
    if average not in ("uniform", "variance"):
        raise ValueError(f"average is {average!r}, expected 'uniform' or 'variance'")
    signal, predicted, recorded = _matched(signal, predicted, "predicted")
    deviation = np.where(recorded, signal - _unit_means(signal), 0.0).reshape(-1, signal.shape[-1])
    error = np.where(recorded, signal - predicted, 0.0).reshape(-1, signal.shape[-1])
    squared_deviation, squared_error = (deviation**2).sum(axis=0), (error**2).sum(axis=0)
    kept = squared_deviation > 0
    if not kept.any():
        raise ValueError("no unit varies over the evaluated bins, so R2 is not defined")
    weights = squared_deviation[kept] if average == "variance" else None
    return float(np.average(1 - squared_error[kept] / squared_deviation[kept], weights=weights))


def fair_crps(observed: ArrayLike, samples: ArrayLike) -> np.ndarray:
    """Fair continuous ranked probability score of an ensemble at every observation, in the signal's units.

    `samples` is (samples, *shape of observed). E|X - y| - E|X - X'| / 2 with the second mean over pairs of
    different samples (Ferro 2014), so that its expectation does not depend on how many samples were drawn.
    Smaller is better; single values may be negative. NaN where nothing was observed. Computed by
    scoringrules in its sorted form (`pwm`), which equals the pairwise form in O(samples) memory.
    Raises ValueError for fewer than two samples.
    """
    observed, samples = _matched_ensemble(observed, samples)
    return np.asarray(scoringrules.crps_ensemble(observed, samples, m_axis=0, estimator="pwm", backend="numpy"))


def central_coverage(observed: ArrayLike, samples: ArrayLike, level: float) -> float:
    """Fraction of observations inside the central `level` interval (such as 0.9) of an ensemble.

    `samples` is (samples, *shape of observed). Ranks, not quantiles: an observation with b samples below
    and e equal to it has a probability integral transform spread evenly over [b, b + e + 1] / (samples + 1)
    (Czado, Gneiting and Held 2009), and the share of that range inside the interval counts. So for draws
    from the truth the expected value is exactly `level`, for any number of samples and for counts with
    ties; less means over-confident. NaN observations are left out; ValueError when none is left.
    """
    if not 0 < level < 1:
        raise ValueError(f"level is {level}, expected a fraction between 0 and 1 such as 0.9")
    observed, samples = _matched_ensemble(observed, samples)
    recorded = ~np.isnan(observed)
    if not recorded.any():
        raise ValueError("no observation to cover: every value is NaN")
    ranks = len(samples) + 1
    low = (samples < observed).sum(axis=0) / ranks
    high = (samples <= observed).sum(axis=0) / ranks + 1 / ranks
    inside = np.minimum(high, (1 + level) / 2) - np.maximum(low, (1 - level) / 2)
    return float((np.clip(inside, 0, None) / (high - low))[recorded].mean())


def _gain_by_unit(counts: ArrayLike, rates: ArrayLike, null_rates: ArrayLike | None) -> tuple[np.ndarray, np.ndarray]:
    """NLL(null) - NLL(rates) in nats and number of spikes, each (units,)."""
    counts = np.asarray(counts, dtype=float)
    spikes = np.nansum(counts.reshape(-1, counts.shape[-1]), axis=0)
    if spikes.sum() == 0:
        raise ValueError(
            f"no spikes in the evaluated counts of shape {counts.shape}: a score per spike is not defined; "
            "evaluate more trials, or leave this session out"
        )
    null = _unit_means(counts) if null_rates is None else null_rates
    return poisson_nll_by_unit(counts, null) - poisson_nll_by_unit(counts, rates), spikes


def _unit_means(values: np.ndarray) -> np.ndarray:
    """Mean of each unit over what was recorded; 0 for a unit never recorded."""
    flat = values.reshape(-1, values.shape[-1])
    recorded = (~np.isnan(flat)).sum(axis=0)
    return np.nansum(flat, axis=0) / np.maximum(recorded, 1)


def _matched(values: ArrayLike, predicted: ArrayLike, name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Both as float arrays of the shape of `values`, and where `values` was recorded."""
    values, predicted = np.asarray(values, dtype=float), np.asarray(predicted, dtype=float)
    try:
        predicted = np.broadcast_to(predicted, values.shape)
    except ValueError:
        raise ValueError(
            f"{name} have shape {predicted.shape}, expected {values.shape} like what was recorded"
        ) from None
    recorded = ~np.isnan(values)
    missing = int((~np.isfinite(predicted[recorded])).sum())
    if missing:
        raise ValueError(f"{name} hold {missing} NaN or infinite values where something was recorded")
    return values, predicted, recorded


def _matched_ensemble(observed: ArrayLike, samples: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    observed, samples = np.asarray(observed, dtype=float), np.asarray(samples, dtype=float)
    if samples.shape[1:] != observed.shape or len(samples) < 2:
        raise ValueError(
            f"samples have shape {samples.shape}, expected (samples, *{observed.shape}) with at least 2 samples first"
        )
    unusable = np.asarray((~np.isfinite(samples)).any(axis=0))
    missing = int(unusable[~np.isnan(observed)].sum())
    if missing:
        raise ValueError(f"samples are NaN or infinite at {missing} places where something was recorded")
    return observed, samples
