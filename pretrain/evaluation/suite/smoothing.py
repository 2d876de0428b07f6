"""Exponential smoothing of counts in time, for baselines that may know what the model knows.

N trials, T bins, C units.
"""

import numpy as np
from scipy.signal import lfilter


def exponential_smoothing(signal_NTC: np.ndarray, decay_bins: float, causal: bool = True) -> np.ndarray:
    """Weighted mean of the bins up to each one, itself included, with weights exp(-age / decay_bins); float64.

    The weights are those of the bins that exist: the first bin is itself. With `causal` False the bins after it count
    alike. `decay_bins` 0 leaves the signal as it is.
    """
    values = np.asarray(signal_NTC, dtype=float)
    if decay_bins == 0:
        return values
    keep = np.exp(-1.0 / decay_bins)
    one = np.ones((1, values.shape[1], 1))

    def past(x: np.ndarray) -> np.ndarray:
        return np.asarray(lfilter([1.0], [1.0, -keep], x, axis=1))

    if causal:
        return past(values) / past(one)

    def both(x: np.ndarray) -> np.ndarray:
        return past(x) + past(x[:, ::-1])[:, ::-1] - x

    return both(values) / both(one)
