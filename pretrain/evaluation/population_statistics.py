"""Statistics of population activity by which generated spike counts are judged against recorded ones.

Counts are (trials, bins, units). Definitions follow Kapoor et al. 2024 (LDNS), its `eval_utils.py` and
figure notebooks. A distance means little alone: print beside it the same distance between disjoint halves
of held-out data.
"""

import numpy as np
from scipy.stats import gaussian_kde


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
    a matrix that is zero on and above its diagonal, so its value is sqrt((N - 1) / 2N) times this one.
    Raises ValueError when the units differ in number or no pair is left.
    """
    if generated.shape[-1] != recorded.shape[-1]:
        raise ValueError(
            f"generated counts have {generated.shape[-1]} units, recorded ones {recorded.shape[-1]}: expected the same"
        )
    difference = pairwise_correlations(generated) - pairwise_correlations(recorded)
    squares = difference[np.tril_indices(len(difference), k=-1)] ** 2
    if np.isnan(squares).all():
        raise ValueError("no pair of units that both vary in generated and recorded counts")
    return float(np.sqrt(np.nanmean(squares)))


def population_count_kl(generated: np.ndarray, recorded: np.ndarray, largest_count: int | None = None) -> float:
    """KL(generated || recorded) in nats between distributions of spikes per bin summed over units.

    Each distribution is a Gaussian kernel density (scipy's default bandwidth) at the integers 0 to
    `largest_count`, made to sum to one. Methods are comparable only under one `largest_count`: LDNS takes
    the largest over the data and all methods compared; by default it is the largest of the two given.
    Raises ValueError when all bins of one side hold the same count, which has no density.
    """
    totals = {"generated": _flat(generated).sum(axis=1), "recorded": _flat(recorded).sum(axis=1)}
    for name, total in totals.items():
        if np.ptp(total) == 0:
            raise ValueError(
                f"every bin of the {name} counts holds {total[0]:g} spikes: there is no density to compare"
            )
    largest = max(total.max() for total in totals.values()) if largest_count is None else largest_count
    support = np.arange(int(largest) + 1)
    model, data = (density / density.sum() for density in (gaussian_kde(t)(support) for t in totals.values()))
    with np.errstate(invalid="ignore", divide="ignore"):
        return float(np.nansum(model * np.log(model / data)))


def _flat(counts: np.ndarray) -> np.ndarray:
    return np.asarray(counts, dtype=float).reshape(-1, counts.shape[-1])
