"""Statistics of population activity by which generated spike counts are judged against recorded ones.

Counts are (trials, bins, units). Definitions follow Kapoor et al. 2024 (LDNS), its `eval_utils.py` and
figure notebooks. A distance means little alone: print beside it the same distance between disjoint halves
of held-out data.
"""

import numpy as np

BULK = 0.999


def mean_rates(counts: np.ndarray, bin_s: float) -> np.ndarray:
    """Mean rate of each unit over all trials and bins in spikes/s, shape (units,)."""
    return _flat(counts).mean(axis=0) / bin_s


def pairwise_correlations(counts: np.ndarray) -> np.ndarray:
    """Pearson correlations between units over all bins of all trials, (units, units).

    NaN in the rows and columns of units that never vary.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.atleast_2d(np.corrcoef(_flat(counts), rowvar=False))


def correlation_rmse(generated: np.ndarray, recorded: np.ndarray) -> float:
    """Root mean squared difference of pairwise correlations over the pairs of different units.

    Pairs undefined in either (a unit that never varies) are left out. LDNS averages over all N^2 entries of
    a matrix that is zero on and above its diagonal: `full_matrix_rmse`.
    Raises ValueError when the units differ in number or no pair is left.
    """
    if generated.shape[-1] != recorded.shape[-1]:
        raise ValueError(
            f"generated counts have {generated.shape[-1]} units, recorded ones {recorded.shape[-1]}: expected the same"
        )
    return pairs_rmse(pairwise_correlations(generated), pairwise_correlations(recorded))


def pairs_rmse(generated_CC: np.ndarray, recorded_CC: np.ndarray) -> float:
    """`correlation_rmse` of two matrices of correlations."""
    difference = generated_CC - recorded_CC
    squares = difference[np.tril_indices(len(difference), k=-1)] ** 2
    if np.isnan(squares).all():
        raise ValueError("no pair of units that both vary in generated and recorded counts")
    return float(np.sqrt(np.nanmean(squares)))


def full_matrix_rmse(generated_CC: np.ndarray, recorded_CC: np.ndarray) -> float:
    """LDNS's form of `pairs_rmse`: the zeros on and above the diagonal count too, all N^2 of them.

    It is sqrt((N - 1) / 2N) times the other where every pair is defined. LDNS's own value is NaN with a unit that
    never varies; here its pairs are left out.
    """
    lower = np.tril(generated_CC - recorded_CC, k=-1)
    return float(np.sqrt(np.nanmean(lower**2)))


def population_count_kl(generated: np.ndarray, recorded: np.ndarray, largest_count: int | None = None) -> float:
    """KL(generated || recorded) in nats between distributions of spikes per bin summed over units.

    Each distribution is a Gaussian kernel density (scipy's default bandwidth) at the integers 0 to
    `largest_count`, made to sum to one. Methods are comparable only under one `largest_count`: LDNS takes
    the largest over the data and all methods compared; by default it is the largest of the two given.
    Then a single bin far out decides where tails are heavy: `bulk_count` gives a limit that does not.
    Infinite where the recorded density is 0 and the generated one is not. Raises ValueError when all bins of
    one side hold the same count, which has no density.
    """
    totals = {"generated": population_counts(generated), "recorded": population_counts(recorded)}
    for name, total in totals.items():
        if np.ptp(total) == 0:
            raise ValueError(
                f"every bin of the {name} counts holds {total[0]:g} spikes: there is no density to compare"
            )
    return count_kl(totals["generated"], totals["recorded"], largest_count)


def population_counts(counts: np.ndarray) -> np.ndarray:
    """Spikes per bin summed over units, of all bins of all trials, (trials * bins,)."""
    return np.asarray(counts).sum(axis=-1, dtype=float).ravel()


def bulk_count(recorded: np.ndarray) -> int:
    """The population count that BULK of the recorded bins do not exceed: a `largest_count` without the far tail."""
    return int(np.quantile(population_counts(recorded), BULK))


def count_kl(generated: np.ndarray, recorded: np.ndarray, largest_count: int | None = None) -> float:
    """`population_count_kl` of two vectors of population counts."""
    largest = max(generated.max(), recorded.max()) if largest_count is None else largest_count
    model, data = (_kernel_density(total, int(largest)) for total in (generated, recorded))
    with np.errstate(invalid="ignore", divide="ignore"):
        return float(np.nansum(model * np.log(model / data)))


def _kernel_density(totals: np.ndarray, largest: int) -> np.ndarray:
    """Gaussian kernel density at 0 ... largest, made to sum to one.

    Equal to scipy's gaussian_kde(totals) (Scott's bandwidth, sd * n^(-1/5)), but summed over distinct counts.
    """
    values, numbers = np.unique(totals, return_counts=True)
    bandwidth = totals.std(ddof=1) * len(totals) ** -0.2
    distance = (np.arange(largest + 1)[:, None] - values) / bandwidth
    density = np.exp(-0.5 * distance**2) @ numbers
    return density / density.sum()


def _flat(counts: np.ndarray) -> np.ndarray:
    return np.asarray(counts, dtype=float).reshape(-1, counts.shape[-1])
