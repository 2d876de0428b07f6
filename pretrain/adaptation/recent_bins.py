"""The latest bins of an incoming recording, in memory that is taken once and never grows.

T bins, C units, N windows.
"""

import threading

import numpy as np


class RecentBins:
    """A ring of the last `bins` bins of `units` units. Safe to push from one thread and to read from another."""

    def __init__(self, bins: int, units: int, dtype: np.dtype):
        self._signal_TC = np.zeros((bins, units), dtype)
        self._stretch_T = np.zeros(bins, dtype=np.int64)
        self._end, self._filled, self._stretch = 0, 0, 0
        self._lock = threading.Lock()

    @property
    def nbytes(self) -> int:
        """Bytes it takes, whatever was pushed."""
        return self._signal_TC.nbytes + self._stretch_T.nbytes

    @property
    def room(self) -> int:
        """Bins that it can hold."""
        return len(self._signal_TC)

    def __len__(self) -> int:
        """Bins that it holds."""
        return self._filled

    def push(self, signal_TC: np.ndarray, continues: bool = True) -> None:
        """Add bins behind the last ones; the oldest make room. `continues` False: there is a gap before them."""
        room = len(self._signal_TC)
        with self._lock:
            self._stretch += not continues
            kept = signal_TC[-room:]
            places = (self._end + np.arange(len(kept))) % room
            self._signal_TC[places], self._stretch_T[places] = kept, self._stretch
            self._end = int((self._end + len(kept)) % room)
            self._filled = min(room, self._filled + len(kept))

    def in_order(self) -> tuple[np.ndarray, np.ndarray]:
        """Copies of the bins from the oldest to the newest (T, C), and which stretch each belongs to (T,)."""
        with self._lock:
            places = (self._end - self._filled + np.arange(self._filled)) % len(self._signal_TC)
            return self._signal_TC[places], self._stretch_T[places]

    def windows(self, bins: int) -> np.ndarray:
        """Windows (N, bins, C) one after the other, in time; none crosses a gap, and each stretch ends with one.

        Short stretches are left out.
        """
        signal_TC, stretch_T = self.in_order()
        borders = np.flatnonzero(np.diff(stretch_T)) + 1
        cut = []
        for stretch_SC in np.split(signal_TC, borders):
            whole = len(stretch_SC) // bins * bins
            cut.append(stretch_SC[len(stretch_SC) - whole :].reshape(-1, bins, signal_TC.shape[1]))
        return np.concatenate(cut)
