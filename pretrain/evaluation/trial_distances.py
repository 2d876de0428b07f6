"""Distances between sets of trials, each trial a vector of features: are they alike, and are they copies?

N, M trials, F features.
"""

from typing import NamedTuple

import numpy as np
from scipy.spatial.distance import cdist, pdist

CLOSE_QUANTILE = 0.01
"Share of held-out trials that are called close to a training trial."
ROWS_AT_ONCE = 500


def energy_distance(first_NF: np.ndarray, second_MF: np.ndarray) -> float:
    """2 E|x - y| - E|x - x'| - E|y - y'| with Euclidean norms (Szekely & Rizzo 2013), 0 only for equal distributions.

    The means leave out the distance of a trial from itself, so two sets of one distribution give 0 on average,
    sometimes less. Raises ValueError for fewer than two trials.
    """
    if min(len(first_NF), len(second_MF)) < 2:
        raise ValueError(f"sets of {len(first_NF)} and {len(second_MF)} trials: an energy distance needs 2 in each")
    between = cdist(first_NF, second_MF).mean()
    return float(2 * between - pdist(first_NF).mean() - pdist(second_MF).mean())


def nearest_distances(queries_NF: np.ndarray, references_MF: np.ndarray) -> np.ndarray:
    """Euclidean distance of each query from the reference nearest to it, (N,)."""
    chunks = [queries_NF[start : start + ROWS_AT_ONCE] for start in range(0, len(queries_NF), ROWS_AT_ONCE)]
    return np.concatenate([cdist(chunk, references_MF).min(axis=1) for chunk in chunks])


class Memorisation(NamedTuple):
    """How near generated trials lie to training trials, compared with how near held-out trials lie."""

    distance_ratio: float
    "Median distance of generated trials from the nearest training trial, over that of held-out trials. Copies: < 1."
    close_share: float
    "Share of generated trials nearer than CLOSE_QUANTILE of the held-out trials are. Copies: > CLOSE_QUANTILE."


def memorisation(generated_N: np.ndarray, held_out_M: np.ndarray) -> Memorisation:
    """From `nearest_distances` of generated and of held-out trials to the training trials."""
    ratio = float(np.median(generated_N) / np.median(held_out_M))
    return Memorisation(ratio, float(np.mean(generated_N < np.quantile(held_out_M, CLOSE_QUANTILE))))
