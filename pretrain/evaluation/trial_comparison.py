"""How far sets of generated trials are from held-out ones, in every statistic that LDNS reports and some more.

N trials, T bins, C units, K lags, F frequencies, P features of a trial. A distance means little alone: it is read
beside `halves_floor`, and beside fresh trials of the true process where there is one, with equal numbers of trials.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from neurochorus.data_shards.settings import at_least, settings
from neurochorus.pretrain.evaluation.population_statistics import (
    bulk_count,
    count_kl,
    full_matrix_rmse,
    pairs_rmse,
    pairwise_correlations,
    population_counts,
)
from neurochorus.pretrain.evaluation.trial_distances import energy_distance, memorisation, nearest_distances
from neurochorus.pretrain.evaluation.trial_statistics import (
    SmoothedComponents,
    count_autocorrelation,
    interval_statistics,
    power_spectra,
    rmse,
)

DEFINITIONS = {
    "count_kl": "KL(generated || held out) of spikes per bin over all units, nats, as LDNS: kernel densities at 0 to "
    "the largest count of all methods",
    "count_kl_bulk": "the same up to the count that 99.9 % of the held-out bins do not exceed",
    "correlation_rmse": "pairwise correlations, root mean square over pairs of units",
    "correlation_rmse_ldns": "the same over all entries of a matrix that is zero on and above its diagonal, as LDNS",
    "mean_interval_rmse": "mean interval between a unit's spikes, s, root mean square over units",
    "sd_interval_rmse": "standard deviation of those intervals, s, root mean square over units",
    "autocorrelation_rmse": "autocorrelation of counts, mean over units, root mean square over lags",
    "spectrum_rmse": "log10 power of the first two components of smoothed counts, root mean square over frequencies",
    "energy_distance": "between sets of trials, each its components of smoothed counts over time (unbiased: around 0 "
    "for equal distributions)",
    "nearest_ratio": "median distance to the nearest training trial over that of held-out trials (copies: below 1)",
    "close_share": "share of trials nearer to a training trial than 1 % of held-out trials are (copies: above 0.01)",
}
COPYING = ("nearest_ratio", "close_share")
"Not distances: they say whether trials are copies of training trials."


@settings
class ComparisonConfig:
    lags: int = 30
    "Lags of the autocorrelation in bins."
    components: int = 3
    "Principal components of smoothed counts that stand for a trial."
    smoothing_bins: float = 3.0
    "sd of the smoothing in bins; LDNS: 30 ms."
    stride: int = 4
    "Every so many bins of the components are features of a trial."

    def problems(self) -> list[str]:
        found = at_least(self, 1, "lags", "components", "stride")
        return found if self.smoothing_bins > 0 else [*found, "smoothing_bins: expected more than 0"]


@dataclass(frozen=True)
class TrialSummary:
    """Everything that the distances of a set of trials need."""

    population: np.ndarray  # (N * T,)
    correlations_CC: np.ndarray
    mean_interval_C: np.ndarray
    sd_interval_C: np.ndarray
    autocorrelation_K: np.ndarray
    spectrum_F2: np.ndarray  # log10
    features_NP: np.ndarray


class TrialComparison:
    """Distances from the held-out trials of one session."""

    def __init__(
        self,
        train_NTC: np.ndarray,
        held_out_NTC: np.ndarray,
        bin_s: float,
        config: ComparisonConfig = ComparisonConfig(),  # noqa: B008 (frozen)
    ):
        """Components are found in the training trials, which are also those that could have been copied."""
        self.config, self.bin_s = config, bin_s
        self.components = SmoothedComponents(train_NTC, config.components, config.smoothing_bins)
        self.train_NP = self._features(self.components(train_NTC))
        self.bulk = bulk_count(held_out_NTC)
        self.held_out_NTC = held_out_NTC
        self.held_out = self.summary(held_out_NTC)
        self.held_out_nearest_N = nearest_distances(self.held_out.features_NP, self.train_NP)

    def summary(self, counts_NTC: np.ndarray) -> TrialSummary:
        intervals = interval_statistics(counts_NTC, self.bin_s)
        series_NTK = self.components(counts_NTC)
        return TrialSummary(
            population=population_counts(counts_NTC),
            correlations_CC=pairwise_correlations(counts_NTC),
            mean_interval_C=intervals.mean_C,
            sd_interval_C=intervals.sd_C,
            autocorrelation_K=count_autocorrelation(counts_NTC, self.config.lags),
            spectrum_F2=power_spectra(series_NTK[..., :2], self.bin_s, self.config.smoothing_bins),
            features_NP=self._features(series_NTK),
        )

    def distances(
        self, generated: TrialSummary, largest_count: int, recorded: TrialSummary | None = None
    ) -> dict[str, float]:
        """Distances of generated trials from the held-out ones (or from `recorded`), by the names of DEFINITIONS.

        `largest_count`: see population_count_kl; the same for everything that is compared. Without `recorded` it
        is also said whether trials were copied.
        """
        own = self.held_out if recorded is None else recorded
        values = {
            "count_kl": count_kl(generated.population, own.population, largest_count),
            "count_kl_bulk": count_kl(generated.population, own.population, self.bulk),
            "correlation_rmse": pairs_rmse(generated.correlations_CC, own.correlations_CC),
            "correlation_rmse_ldns": full_matrix_rmse(generated.correlations_CC, own.correlations_CC),
            "mean_interval_rmse": rmse(generated.mean_interval_C, own.mean_interval_C),
            "sd_interval_rmse": rmse(generated.sd_interval_C, own.sd_interval_C),
            "autocorrelation_rmse": rmse(generated.autocorrelation_K, own.autocorrelation_K),
            "spectrum_rmse": rmse(generated.spectrum_F2, own.spectrum_F2),
            "energy_distance": energy_distance(generated.features_NP, own.features_NP),
        }
        if recorded is None:
            nearest_N = nearest_distances(generated.features_NP, self.train_NP)
            values |= zip(COPYING, memorisation(nearest_N, self.held_out_nearest_N))
        return values

    def halves_floor(self, largest_count: int, splits: int) -> list[dict[str, float]]:
        """Distances between disjoint halves of the held-out trials, for each of several random halvings.

        A half has half the trials, so these are larger than distances of sets as large as the held-out one.
        """
        return [
            self.distances(self.summary(first), largest_count, self.summary(second))
            for first, second in self._halvings(splits)
        ]

    def _halvings(self, splits: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        half = len(self.held_out_NTC) // 2
        for split in range(splits):
            order = np.random.default_rng(split).permutation(len(self.held_out_NTC))
            yield self.held_out_NTC[order[:half]], self.held_out_NTC[order[half : 2 * half]]

    def _features(self, series_NTK: np.ndarray) -> np.ndarray:
        stride = self.config.stride
        return series_NTK[:, stride // 2 :: stride].reshape(len(series_NTK), -1)


def largest_population_count(*sets_NTC: np.ndarray) -> int:
    """The largest population count over all sets of trials that are compared (LDNS)."""
    return int(max(population_counts(counts).max() for counts in sets_NTC))


def mean_sizes(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Mean of each distance's size over rows; sizes, as unbiased energy distances are around 0."""
    return {name: float(np.mean([abs(row[name]) for row in rows])) for name in rows[0]}
