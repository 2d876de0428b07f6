"""The same forecast under the conventions of several repositories, each under its own name.

Numbers of two repositories are not comparable under one name (reference: field.md 0.7): some pool units, some average
them, and some take another null or edit bad values. The default of this project is `metrics.bits_per_spike` (NLB).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from neurochorus.pretrain.evaluation.metrics import bits_per_spike, bits_per_spike_by_unit, poisson_d2, r2

SILENT_RATE = 1e-9
Score = Callable[[np.ndarray, np.ndarray, np.ndarray], float]


@dataclass(frozen=True)
class Convention:
    """score(signal, expected, train means (units,)) of one session; arrays are (trials, bins, units)."""

    name: str
    definition: str
    score: Score
    better: Literal["higher", "lower"] = "higher"


def mtm_bits_per_spike(counts: np.ndarray, rates: np.ndarray) -> float:
    """Mean over units of their own bits/spike, as MtM `eval_utils.py` reports it: below -10 it becomes -5."""
    mean = unit_mean_bits_per_spike(counts, rates)
    return -5.0 if mean < -10 else mean


def unit_mean_bits_per_spike(counts: np.ndarray, rates: np.ndarray) -> float:
    """Mean over the units that spike of their own bits/spike."""
    return float(np.nanmean(bits_per_spike_by_unit(counts, rates)))


def spiking_units_bits_per_spike(counts: np.ndarray, rates: np.ndarray) -> float:
    """Pooled bits/spike of the units that spike in the evaluated bins (IBL BrainWideBench `bps.py`)."""
    means_C = np.nanmean(np.asarray(counts, dtype=float).reshape(-1, counts.shape[-1]), axis=0)
    kept = means_C >= SILENT_RATE
    return bits_per_spike(counts[..., kept], rates[..., kept]) if kept.any() else bits_per_spike(counts, rates)


def mean_absolute_error(signal: np.ndarray, predicted: np.ndarray) -> float:
    """Mean over everything recorded of |signal - predicted| (ZAPBench)."""
    return float(np.nanmean(np.abs(np.asarray(signal, dtype=float) - predicted)))


def conventions(modality: str) -> list[Convention]:
    """Those of a modality beside its default (bits/spike pooled over units; R2 averaged over units)."""
    if modality != "spikes":
        return [
            Convention(
                "r2_variance_weighted",
                "R2 of each unit, averaged with weights by the units' variance (FALCON)",
                lambda signal, predicted, means: r2(signal, predicted, "variance"),
            ),
            Convention(
                "mae",
                "mean absolute error over windows, bins and units, in the signal's unit (ZAPBench)",
                lambda signal, predicted, means: mean_absolute_error(signal, predicted),
                "lower",
            ),
        ]
    return [
        Convention(
            "poisson_d2",
            "share of Poisson deviance explained, 1 - (NLL - NLL of the counts themselves) / (NLL(null) - the same), "
            "of each unit that spikes, averaged over units; null: its mean over the evaluated bins (IBL "
            "BrainWideBench)",
            lambda counts, rates, means: poisson_d2(counts, rates),
        ),
        Convention(
            "poisson_d2_clipped",
            "Poisson D2, values below 0 taken as 0 in every session (IBL BrainWideBench's leaderboard, which clips "
            "every seed)",
            lambda counts, rates, means: max(0.0, poisson_d2(counts, rates)),
        ),
        Convention(
            "bits_per_spike_unit_mean",
            "bits/spike of each unit that spikes, averaged over units (not pooled); null: its mean over the evaluated "
            "bins",
            lambda counts, rates, means: unit_mean_bits_per_spike(counts, rates),
        ),
        Convention(
            "bits_per_spike_mtm",
            "the mean over units of bits/spike, a mean below -10 replaced by -5 (MtM eval_utils.py)",
            lambda counts, rates, means: mtm_bits_per_spike(counts, rates),
        ),
        Convention(
            "bits_per_spike_spiking_units",
            "bits/spike pooled over the units that spike in the evaluated bins; what is predicted for the others costs "
            "nothing (IBL BrainWideBench)",
            lambda counts, rates, means: spiking_units_bits_per_spike(counts, rates),
        ),
        Convention(
            "bits_per_spike_train_null",
            "bits/spike pooled over units; null: each unit's mean over the train split with one pseudo-spike, which "
            "knows nothing of the evaluated bins (easier to beat than NLB's null)",
            lambda counts, rates, means: bits_per_spike(counts, rates, null_rates=means),
        ),
        Convention(
            "bits_per_spike_clamped",
            "bits/spike pooled over units, values below -1 taken as -1 (lfads-torch's logged value)",
            lambda counts, rates, means: max(-1.0, bits_per_spike(counts, rates)),
        ),
    ]
