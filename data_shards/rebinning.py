"""Wider bins at read time: `factor` stored bins become one. Counts add, everything else is averaged over what is known.

N windows, T bins, C columns. A stretch whose length is no multiple of the factor loses the rest at its end.
"""

import math
from dataclasses import replace

import numpy as np

from neurochorus.data_shards.manifest import SessionEntry


def rebinning_factor(entry: SessionEntry, bin_s: float | None) -> int:
    """Return how many stored bins of a session make one of `bin_s` seconds (None: its own, 1).

    Raises ValueError naming the session where that is no whole number.
    """
    if bin_s is None:
        return 1
    if not (math.isfinite(bin_s) and bin_s > 0):
        raise ValueError(f"bin_s is {bin_s}; expected a positive number of seconds")
    factor = round(bin_s / entry.bin_s)
    if factor < 1 or not math.isclose(factor * entry.bin_s, bin_s, rel_tol=1e-6):
        raise ValueError(
            f"session {entry.session_id!r} is stored in bins of {entry.bin_s:g} s, which do not make whole bins of "
            f"{bin_s:g} s: set data.bin_s to a multiple of {entry.bin_s:g}, leave the session out, or write it again"
        )
    return factor


def rebinned_entry(entry: SessionEntry, factor: int) -> SessionEntry:
    """Return the entry as it is of wider bins.

    Means are exact but for bins lost at the ends. An sd is that of independent bins for counts, and that of the stored
    bins for a continuous signal, whose averages vary by at most as much.
    """
    if factor == 1:
        return entry
    counts = entry.modality == "spikes"
    return replace(
        entry,
        bin_s=round(entry.bin_s * factor, 12),
        unit_mean=entry.unit_mean * factor if counts else entry.unit_mean,
        unit_sd=entry.unit_sd * math.sqrt(factor) if counts else entry.unit_sd,
        train_bins=max(1, entry.train_bins // factor),
    )


def rebinned_signal(signal_NTC: np.ndarray, factor: int) -> np.ndarray:
    """Return sums of counts (int32), or means of a float32 signal, over each `factor` bins."""
    if factor == 1:
        return signal_NTC
    groups_NTfC = _grouped(signal_NTC, factor)
    if signal_NTC.dtype == np.float32:
        return groups_NTfC.mean(axis=2, dtype=np.float32)
    return groups_NTfC.sum(axis=2, dtype=np.int32)


def rebinned_covariates(values_NTC: np.ndarray, factor: int) -> np.ndarray:
    """Return means (float32) over the known ones of each `factor` bins, NaN where none is known."""
    if factor == 1:
        return values_NTC
    groups_NTfC = _grouped(values_NTC, factor)
    known_NTfC = ~np.isnan(groups_NTfC)
    count_NTC = known_NTfC.sum(axis=2)
    total_NTC = np.where(known_NTfC, groups_NTfC, 0).sum(axis=2, dtype=np.float64)
    mean_NTC = np.full(total_NTC.shape, np.nan, dtype=np.float32)
    np.divide(total_NTC, count_NTC, out=mean_NTC, where=count_NTC > 0, casting="unsafe")
    return mean_NTC


def _grouped(values_NTC: np.ndarray, factor: int) -> np.ndarray:
    samples, bins, columns = values_NTC.shape
    whole = bins // factor
    return values_NTC[:, : whole * factor].reshape(samples, whole, factor, columns)
