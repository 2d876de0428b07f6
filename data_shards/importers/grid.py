"""Bins on the clock of a recording: pieces that each start at a time of their own and run on in bins of bin_s.

A long recording is one piece, a recording with gaps one a stretch, and one cut into trials one a trial, so that a
trial's first bin starts exactly where the trial does. T is the bins of all pieces, joined.
"""

from dataclasses import dataclass

import numpy as np

BIN_TOLERANCE = 1e-6  # of a bin: a spike at start + k * bin_s belongs to bin k in spite of rounding


def rounding_s(clock: float | np.ndarray, bin_s: float) -> np.ndarray:
    """Return by how much a time may lie before the bin that it opens, in s, at times around `clock`."""
    return np.maximum(BIN_TOLERANCE * bin_s, 4 * np.spacing(np.abs(clock)))


def whole_bins(seconds: float | np.ndarray, bin_s: float, clock: float | np.ndarray = 0.0) -> np.ndarray:
    """Return how many whole bins fit into a length, in spite of rounding; int64, clipped to what that holds.

    `clock`: the times that the lengths are differences of; seconds since 1970, say, are known to 2e-7 s.
    """
    bins = np.floor((np.asarray(seconds, dtype=np.float64) + rounding_s(clock, bin_s)) / bin_s)
    return np.clip(bins, -(2.0**62), 2.0**62).astype(np.int64)


@dataclass(frozen=True)
class Grid:
    """Pieces in the order of time that do not overlap: starts_s (P,) in s and bins (P,), at least 1 each."""

    starts_s: np.ndarray
    bins: np.ndarray
    bin_s: float

    @classmethod
    def of(cls, intervals: np.ndarray, bin_s: float) -> "Grid":
        """Return the grid of the whole bins in intervals (n, 2) in s; an interval shorter than a bin has none."""
        bins = whole_bins(intervals[:, 1] - intervals[:, 0], bin_s, np.abs(intervals).max(axis=1))
        return cls(intervals[bins > 0, 0], bins[bins > 0], bin_s)

    @property
    def total(self) -> int:
        return int(self.bins.sum())

    @property
    def offsets(self) -> np.ndarray:
        """The first bin of each piece, (P,)."""
        return np.cumsum(self.bins) - self.bins

    def index(self, times: np.ndarray) -> np.ndarray:
        """Return the bin in which each time falls, int64 of the shape of `times`; -1 outside of all pieces."""
        if len(self.bins) == 0:
            return np.full(times.shape, -1, dtype=np.int64)
        piece = np.searchsorted(self.starts_s - rounding_s(self.starts_s, self.bin_s), times, side="right") - 1
        piece = np.maximum(piece, 0)
        within = whole_bins(times - self.starts_s[piece], self.bin_s, self.starts_s[piece])
        inside = (within >= 0) & (within < self.bins[piece])
        return np.where(inside, self.offsets[piece] + within, -1)

    def centers(self) -> np.ndarray:
        """Return the time of each bin's middle in s, (T,)."""
        within = np.arange(self.total) - np.repeat(self.offsets, self.bins)
        return np.repeat(self.starts_s, self.bins) + (within + 0.5) * self.bin_s


def bins_inside(centers_T: np.ndarray, bin_s: float, intervals: np.ndarray) -> np.ndarray:
    """Return (T,) bool: bins, given by their middles in s, that lie wholly in one of the intervals (n, 2) in s."""
    merged = merge(intervals)
    if len(merged) == 0:
        return np.zeros(len(centers_T), dtype=bool)
    half = (0.5 - BIN_TOLERANCE) * bin_s
    at = np.maximum(np.searchsorted(merged[:, 0], centers_T, side="right") - 1, 0)
    return (centers_T - half >= merged[at, 0]) & (centers_T + half <= merged[at, 1])


def merge(intervals: np.ndarray) -> np.ndarray:
    """Return intervals (n, 2) sorted and with those that touch or overlap joined; empty ones left out."""
    intervals = intervals[intervals[:, 1] > intervals[:, 0]]
    intervals = intervals[np.argsort(intervals[:, 0], kind="stable")]
    if len(intervals) == 0:
        return intervals
    ends = np.maximum.accumulate(intervals[:, 1])
    first = np.concatenate([[True], intervals[1:, 0] > ends[:-1]])
    last = np.concatenate([first[1:], [True]])
    return np.stack([intervals[first, 0], ends[last]], axis=1)


def intersect(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return the merged intervals (n, 2) that lie in both of two sets of intervals."""
    one, other = merge(one), merge(other)
    found = []
    for start, stop in one:
        near = other[(other[:, 1] > start) & (other[:, 0] < stop)]
        found.append(np.clip(near, start, stop))
    return np.concatenate(found) if found else np.zeros((0, 2))


def runs(good_T: np.ndarray) -> np.ndarray:
    """Return [start, stop) of each unbroken run of True, (n, 2) int64."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], good_T, [False]]).astype(np.int8)))
    return edges.reshape(-1, 2)
