"""Windows: the stretches of stored samples that a model is given, none across the end of a sample.

For training, a stored sample of n bins counts as max(1, n // window_bins) windows of an epoch. The places at which a
window fits are shared out among them, and each starts at random within its share: all bins come up, no two epochs are
alike, and an epoch has every window once. For evaluation, windows start every `stride` bins until the sample ends.
"""

from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from neurochorus.data_shards.seeds import keyed_bits

if TYPE_CHECKING:
    from neurochorus.data_shards.corpus import Corpus

SESSIONS_KEPT = 1024
"Sessions whose windows a table keeps at hand, each with some 16 bytes a stored sample."

_PHILOX_WORDS = 4  # numbers that one count of Philox gives


def windows_in(bins_N: np.ndarray, window_bins: int | None) -> np.ndarray:
    """Return how many windows of an epoch samples of so many bins count as (int64); 0 for an empty sample."""
    bins_N = np.asarray(bins_N, dtype=np.int64)
    counts_N = np.ones_like(bins_N) if window_bins is None else np.maximum(1, bins_N // window_bins)
    return np.where(bins_N > 0, counts_N, 0)


def window_starts(
    seed: int, first_sample: int, bins_N: np.ndarray, slots_N: np.ndarray, window_bins: int | None
) -> np.ndarray:
    """Return the first bins (int64) of windows, numbers `first_sample` and following of the run.

    Window i is cut from a sample of bins_N[i] bins, and is number slots_N[i] of the windows that this counts as. 0
    where the sample is not longer than a window, or there is no window.
    """
    if window_bins is None:
        return np.zeros(len(bins_N), dtype=np.int64)
    places_N = np.maximum(bins_N - window_bins, 0) + 1
    counts_N = np.maximum(1, windows_in(bins_N, window_bins))
    low_N, high_N = slots_N * places_N // counts_N, (slots_N + 1) * places_N // counts_N
    if (high_N - low_N == 1).all():
        return low_N
    draws_N = keyed_draws(seed, "window", first_sample, len(bins_N)) >> np.uint64(32)
    return low_N + (draws_N.astype(np.int64) * (high_N - low_N) >> 32)


def keyed_draws(seed: int, purpose: str, first: int, count: int) -> np.ndarray:
    """Return numbers `first` and following of an endless sequence (uint64) that depends on seed and purpose."""
    start, skipped = divmod(first, _PHILOX_WORDS)
    philox = np.random.Philox(key=keyed_bits(seed, purpose), counter=start)
    return philox.random_raw(skipped + count)[skipped:]


def evaluation_starts(bins: int, window_bins: int | None, stride: int | None = None) -> range:
    """Return the first bins of the windows of one sample: every `stride` bins (None: side by side) to its end.

    The last one may be shorter than `window_bins`; with stride <= window_bins every bin is in one at least.
    """
    if window_bins is None or bins <= window_bins:
        return range(0, min(bins, 1))
    step = window_bins if stride is None else stride
    return range(0, bins - max(0, window_bins - step), step)


@dataclass(frozen=True)
class _SessionWindows:
    rows: np.ndarray
    bins: np.ndarray
    ends: np.ndarray | None
    "Windows of all samples up to each; None where every sample is one."


class WindowTable:
    """Which stretch of which stored sample a window of a session is; looked up in the index when it is asked for.

    May be pickled: it then carries no more than the corpus does.
    """

    def __init__(self, corpus: "Corpus", split: str, window_bins: int | None):
        if window_bins is not None and window_bins < 1:
            raise ValueError(f"window_bins is {window_bins}; expected at least 1 bin, or nothing for whole samples")
        self.corpus, self.split, self.window_bins = corpus, split, window_bins
        self._kept: OrderedDict[str, _SessionWindows] = OrderedDict()

    def count(self, session_id: str) -> int:
        """Return the windows that an epoch of a session has."""
        bins = self.corpus.bins_of(session_id, self.split)
        return int(windows_in(bins, self.window_bins).sum())

    def find(self, session_id: str, numbers_N: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the global rows, their bins, and which of the windows of its row each of a session's windows is."""
        windows = self._windows(session_id)
        if windows.ends is None:
            return windows.rows[numbers_N], windows.bins[numbers_N], np.zeros_like(numbers_N)
        places_N = np.searchsorted(windows.ends, numbers_N, side="right")
        before_N = np.where(places_N > 0, windows.ends[places_N - 1], 0)
        return windows.rows[places_N], windows.bins[places_N], numbers_N - before_N

    def _windows(self, session_id: str) -> _SessionWindows:
        found = self._kept.get(session_id)
        if found is None:
            rows, bins = self.corpus.rows_of(session_id, self.split), self.corpus.bins_of(session_id, self.split)
            ends = np.cumsum(windows_in(bins, self.window_bins))
            one_each = bool(len(ends) and ends[-1] == len(ends) and (bins > 0).all())
            found = self._kept[session_id] = _SessionWindows(rows, bins, None if one_each else ends)
            if len(self._kept) > SESSIONS_KEPT:
                self._kept.popitem(last=False)
        self._kept.move_to_end(session_id)
        return found

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_kept": OrderedDict()}
