"""How far statistics of generated trials lie from those of held-out trials, beside the noise floor.

The held-out trials are split at random into disjoint halves I and J, several times. The noise floor is the distance
between the recorded trials of I and the recorded trials of J; the model's figure is the distance between trials
generated from the contexts of I and the same recorded trials of J. Both have equally many trials and no context in
common, so a perfect model stands at the floor on average, above or below it by the luck of one set of trials. Means
over the splits are given (medians would favour the model: an outlying trial always stands on one side of the floor).
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.stats import wasserstein_distance

from neurochorus.pretrain.evaluation.generated_trials import GeneratedTrials
from neurochorus.pretrain.evaluation.population_statistics import correlation_rmse, mean_rates, population_count_kl

SPLITS = 12
FEWEST_TRIALS = 4
"Below this a half has a single trial and no noise floor is given."


@dataclass(frozen=True)
class Distance:
    """One line of the table of generated statistics."""

    name: str
    unit: str
    definition: str
    generated: float
    "Between generated and recorded trials; NaN where it is undefined."
    noise_floor: float
    "Between disjoint halves of recorded trials; NaN where it is undefined."


@dataclass(frozen=True)
class Halves:
    """One split into disjoint halves I and J: arrays (trials, bins, units) of equally many trials."""

    generated_I: np.ndarray
    recorded_I: np.ndarray
    recorded_J: np.ndarray


def disjoint_halves(trials: GeneratedTrials, split: int = 0) -> Halves:
    """Return the split of that number; sample `split` modulo S stands for the model.

    Raises ValueError without held-out activity or with fewer than FEWEST_TRIALS trials.
    """
    if trials.held_out_BHC is None or trials.trials < FEWEST_TRIALS:
        raise ValueError(f"disjoint halves need held-out activity of {FEWEST_TRIALS} trials or more")
    half = trials.trials // 2
    order = np.random.default_rng(split).permutation(trials.trials)
    first, second = order[:half], order[half : 2 * half]
    return Halves(
        trials.counts_SBHC[split % trials.samples, first], trials.held_out_BHC[first], trials.held_out_BHC[second]
    )


def distances_from_held_out(trials: GeneratedTrials) -> list[Distance]:
    """Return the table of generated statistics; empty where disjoint_halves is undefined."""
    if trials.held_out_BHC is None or trials.trials < FEWEST_TRIALS:
        return []
    splits = [disjoint_halves(trials, split) for split in range(SPLITS)]
    return [
        Distance(
            name,
            unit,
            definition,
            generated=_mean_or_nan(measure, [(halves.generated_I, halves.recorded_J) for halves in splits]),
            noise_floor=_mean_or_nan(measure, [(halves.recorded_I, halves.recorded_J) for halves in splits]),
        )
        for name, unit, definition, measure in _measures(trials)
    ]


def fano_factors(counts: np.ndarray) -> np.ndarray:
    """Variance over mean, across trials, of each unit's spikes in a whole trial; (trials, bins, units) -> (units,).

    NaN for units without a spike. Trials have different contexts, so this holds the variance between contexts too.
    """
    totals = np.asarray(counts, dtype=float).sum(axis=1)
    mean, variance = totals.mean(axis=0), totals.var(axis=0)
    return np.divide(variance, mean, out=np.full(len(mean), np.nan), where=mean > 0)


def autocorrelation(counts: np.ndarray, lags: int) -> np.ndarray:
    """Autocorrelation of the population sum at lags 0 to lags - 1 bins, (trials, bins, units) -> (lags,).

    Deviations from the mean over all trials and bins, so that differences between trials count; NaN for a
    population that never varies.
    """
    totals = np.asarray(counts, dtype=float).sum(axis=2)
    deviations = totals - totals.mean()
    bins = totals.shape[1]
    covariances = [np.mean(deviations[:, : bins - lag] * deviations[:, lag:]) for lag in range(lags)]
    return np.array(covariances) / covariances[0] if covariances[0] > 0 else np.full(lags, np.nan)


def autocorrelation_lags(bins: int) -> int:
    """How many lags are worth showing: pairs of bins further apart are few."""
    return max(1, min(40, (2 * bins) // 3))


Measure = Callable[[np.ndarray, np.ndarray], float]


def _measures(trials: GeneratedTrials) -> list[tuple[str, str, str, Measure]]:
    assert trials.held_out_BHC is not None
    lags = autocorrelation_lags(trials.horizon_bins)
    correlations = ("correlations", "", "RMS difference of Pearson correlations over pairs of units, zero lag",
                    correlation_rmse)  # fmt: skip
    times = ("autocorrelation", "", f"RMS difference of the population's autocorrelation, lags of 1 to {lags - 1} bins",
             lambda a, b: _rms(autocorrelation(a, lags)[1:], autocorrelation(b, lags)[1:]))  # fmt: skip
    if not trials.spikes:
        return [
            ("mean", "signal units", "RMS difference over units of the mean over trials and bins",
             lambda a, b: _rms(mean_rates(a, 1.0), mean_rates(b, 1.0))),
            correlations,
            ("standard deviation", "signal units", "RMS difference over units of the SD over trials and bins",
             lambda a, b: _rms(_unit_sd(a), _unit_sd(b))),
            ("population mean", "signal units", "Wasserstein-1 distance between distributions of the mean over units",
             lambda a, b: _population_distance(a, b, np.mean)),
            *([times] if lags > 1 else []),
        ]  # fmt: skip
    largest = int(max(array.sum(axis=-1, dtype=float).max() for array in (trials.counts_SBHC, trials.held_out_BHC)))
    return [
        ("mean rate", "spikes/s", "RMS difference over units of the mean rate",
         lambda a, b: _rms(mean_rates(a, trials.bin_s), mean_rates(b, trials.bin_s))),
        correlations,
        ("Fano factor", "", "RMS difference over units of variance / mean, across trials, of spikes in a trial",
         lambda a, b: _rms(fano_factors(a), fano_factors(b))),
        ("population count", "spikes per bin", "Wasserstein-1 distance between distributions of spikes per bin",
         lambda a, b: _population_distance(a, b, np.sum)),
        ("population count, KL", "nats", "KL(generated || recorded) of their kernel densities, as LDNS; ∞ when apart",
         lambda a, b: population_count_kl(a, b, largest)),
        *([times] if lags > 1 else []),
    ]  # fmt: skip


def _population_distance(first: np.ndarray, second: np.ndarray, reduce: Callable[..., np.ndarray]) -> float:
    return float(wasserstein_distance(*(reduce(counts, axis=2, dtype=float).ravel() for counts in (first, second))))


def _unit_sd(values: np.ndarray) -> np.ndarray:
    return values.reshape(-1, values.shape[-1]).std(axis=0)


def _rms(first: np.ndarray, second: np.ndarray) -> float:
    """Root mean squared difference over the entries defined in both, NaN without any."""
    squares = (first - second) ** 2
    return float(np.sqrt(np.nanmean(squares))) if np.isfinite(squares).any() else float("nan")


def _mean_or_nan(measure: Measure, pairs: list[tuple[np.ndarray, np.ndarray]]) -> float:
    values = []
    for first, second in pairs:
        try:
            with np.errstate(over="ignore"):  # densities without overlap: the KL divergence is infinite
                values.append(measure(first, second))
        except ValueError:  # population_statistics: a population that never varies, no pair of units that varies
            return float("nan")
    return float(np.mean(values))
