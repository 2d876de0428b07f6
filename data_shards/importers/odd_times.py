"""Times in a file that cannot be meant: found, put into words, and left out where a recipe says so."""

import numpy as np

from neurochorus.data_shards.importers.source import Source

WEEK_S = 7 * 86400.0


def odd_times(times: np.ndarray) -> tuple[np.ndarray, str]:
    """Return which of (n,) times in s cannot be meant, (n,) bool, and how many for which reason ("" where all can).

    Such times are not finite, more than a week from the median, or earlier than one before them.
    """
    finite = np.isfinite(times)
    middle = float(np.median(times[finite])) if finite.any() else 0.0
    far = finite & (np.abs(np.where(finite, times, middle) - middle) > WEEK_S)
    latest = np.maximum.accumulate(np.where(finite & ~far, times, -np.inf)) if len(times) else times
    back = finite & ~far & (times < latest)
    reasons = {"not finite": ~finite, "more than a week from the others": far, "earlier than one before": back}
    words = ", ".join(f"{int(found.sum())} {what}" for what, found in reasons.items() if found.any())
    return ~finite | far | back, words


def without_odd_times(source: Source, key: str) -> np.ndarray:
    """Return times in s with NaN in place of those that cannot be meant, and note how many those are."""
    values = source.array(key, ndim=1)
    if values.dtype.kind not in "iuf":
        raise ValueError(f"{source.where(key)}: is of type {values.dtype}; expected times in seconds")
    times = values.astype(np.float64)
    odd, _ = odd_times(times)
    if odd.any():
        source.notes.append(
            f"{key}: samples at {int(odd.sum())} of {len(times)} times that cannot be meant are left out"
        )
    times[odd] = np.nan
    return times
