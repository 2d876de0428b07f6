"""Spike times, read block by block and counted in bins."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from neurochorus.data_shards.importers.grid import BIN_TOLERANCE, Grid, whole_bins
from neurochorus.data_shards.importers.notes import Notes
from neurochorus.data_shards.importers.scratch import allocate, blocks, narrowed
from neurochorus.data_shards.importers.source import ArrayView, Source, number_or_key
from neurochorus.data_shards.recipe_signal import SignalRecipe

WEEK_S = 7 * 86400.0
SAMPLED = 2**20  # spikes of which the median is taken
SPIKE_BYTES = 32  # of a block: time, unit, bin and place
MOST_UNITS = 10**7


@dataclass(frozen=True)
class Spikes:
    """All spikes of a file, in its order; times in s, without those not finite or outside [lowest, highest]."""

    times: ArrayView
    unit_of: Callable[[int, int], np.ndarray]
    units: int
    scale: float
    where: str
    lowest: float = -np.inf
    highest: float = np.inf

    @property
    def count(self) -> int:
        return self.times.shape[0]

    def blocks(self) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Yield times in s, units, and places in the file, each (n,)."""
        for start, stop in blocks(self.count, SPIKE_BYTES):
            times = self.raw(start, stop)
            meant = (times >= self.lowest) & (times <= self.highest) & np.isfinite(times)
            yield times[meant], self.unit_of(start, stop)[meant], np.arange(start, stop)[meant]

    def raw(self, start: int, stop: int) -> np.ndarray:
        return np.asarray(self.times[start:stop]).astype(np.float64) * self.scale


def open_spikes(source: Source, signal: SignalRecipe, described: int | None) -> Spikes:
    """Return the spikes that a recipe names; `described` is how many units the file describes, where it does."""
    assert signal.times is not None
    scale = number_or_key(source, signal.time_scale, 1.0)
    if not scale > 0:
        raise ValueError(f"{source.path}: signal.time_scale is {scale}; expected a positive number of seconds")
    where = source.where(signal.times)
    if signal.unit_index is not None:
        times = source.view(signal.times, ndim=1)
        units, unit_of = _by_index(source, signal.unit_index, where, times.shape[0], described)
    else:
        times, units, unit_of = _by_counts(source, signal)
    if times.dtype.kind not in "iuf":
        raise ValueError(f"{where}: is of type {times.dtype}; expected times in seconds")
    if times.shape[0] == 0:
        raise ValueError(f"{where}: holds no spike")
    return Spikes(times, unit_of, units, scale, where)


def _by_index(
    source: Source, key: str, where: str, spikes: int, described: int | None
) -> tuple[int, Callable[[int, int], np.ndarray]]:
    index = source.view(key, ndim=1)
    if index.dtype.kind not in "iu":
        raise ValueError(
            f"{source.where(key)}: is of type {index.dtype}; expected whole numbers from 0, the unit of each spike"
        )
    if index.shape[0] != spikes:
        raise ValueError(
            f"{where} has {spikes} spikes but {key!r} has {index.shape[0]}: expected one unit for each spike"
        )
    lowest, highest = 0, 0
    for start, stop in blocks(spikes, SPIKE_BYTES):
        found = np.asarray(index[start:stop])
        lowest, highest = min(lowest, int(found.min())), max(highest, int(found.max()))
    if lowest < 0 or highest >= (MOST_UNITS if described is None else described):
        known = "" if described is None else f" and the file describes {described} units"
        raise ValueError(f"{source.where(key)}: runs from {lowest} to {highest}{known}; expected units numbered from 0")
    units = highest + 1 if described is None else described
    return units, lambda start, stop: np.asarray(index[start:stop]).astype(np.int64)


def _by_counts(source: Source, signal: SignalRecipe) -> tuple[ArrayView, int, Callable[[int, int], np.ndarray]]:
    assert signal.times is not None
    if signal.unit_counts is None:
        values, counts = source.ragged(signal.times)
        times: ArrayView = values
    else:
        times, counts = source.view(signal.times, ndim=1), source.array(signal.unit_counts, ndim=1)
        if counts.dtype.kind not in "iu" or (len(counts) and counts.min() < 0):
            raise ValueError(
                f"{source.where(signal.unit_counts)}: is {counts.dtype}; expected whole numbers, the spikes of a unit"
            )
    if int(counts.sum()) != times.shape[0]:
        raise ValueError(
            f"{source.where(signal.times)} has {times.shape[0]} spikes but the units have {int(counts.sum())} in all"
        )
    ends = np.cumsum(counts.astype(np.int64))
    return times, len(counts), lambda start, stop: np.searchsorted(ends, np.arange(start, stop), side="right")


def plausible(spikes: Spikes, signal: SignalRecipe, notes: Notes) -> Spikes:
    """Return the spikes without times that cannot be meant, noted by number; ValueError where the recipe refuses them.

    Such times are: not finite; below 0 or a week before the median, without start_s; a week after it, without stop_s.
    """
    stride = max(1, spikes.count // SAMPLED)
    sampled = np.concatenate([spikes.raw(start, stop)[::stride] for start, stop in blocks(spikes.count, SPIKE_BYTES)])
    sampled = sampled[np.isfinite(sampled)]
    median = float(np.median(sampled)) if len(sampled) else 0.0
    lowest = -np.inf if signal.start_s is not None else median - WEEK_S
    highest = np.inf if signal.stop_s is not None else median + WEEK_S
    if signal.implausible == "drop":
        lowest = lowest if signal.start_s is not None else max(0.0, lowest)
    odd = 0
    for start, stop in blocks(spikes.count, SPIKE_BYTES):
        times = spikes.raw(start, stop)
        bad = ~(np.isfinite(times) & (times >= lowest) & (times <= highest))
        odd += int(bad.sum())
        if bad.any() and signal.implausible == "refuse":
            _refuse_time(spikes, start + int(np.argmax(bad)), float(times[np.argmax(bad)]), median)
    if odd == spikes.count:
        raise ValueError(f"{spikes.where}: all {odd} times are implausible: check signal.time_scale and signal.start_s")
    if odd:
        notes.drop("spikes", "implausible times", odd)
        notes.facts["implausible_times"] = f"not finite, or outside {lowest:.6g} to {highest:.6g} s"
        notes.say(f"{odd} spikes have implausible times and are left out ({notes.facts['implausible_times']})")
    return replace(spikes, lowest=lowest, highest=highest)


def _refuse_time(spikes: Spikes, place: int, time: float, median: float) -> None:
    if not np.isfinite(time):
        raise ValueError(
            f"{spikes.where}: the time at {place} is {time}; expected finite times, or set `implausible: drop`"
        )
    raise ValueError(
        f"{spikes.where}: the time at {place} is {time:.6g} s, more than a week from the median {median:.6g} s: "
        "check signal.time_scale, or set `implausible: drop`"
    )


def recorded_span(source: Source, signal: SignalRecipe, spikes: Spikes, bin_s: float) -> np.ndarray:
    """Return when bin 0 starts and the last bin ends in s, (1, 2). ValueError for times that go back within a unit."""
    earliest, latest = _survey(spikes)
    if signal.start_s is None and earliest < 0:
        raise ValueError(
            f"{spikes.where}: the earliest spike is at {earliest:.6g} s: "
            "times are negative; set signal.start_s if that is meant"
        )
    start_s = number_or_key(source, signal.start_s, float(np.floor(earliest / bin_s + BIN_TOLERANCE) * bin_s))
    if signal.stop_s is None:
        bins = int(whole_bins(latest - start_s, bin_s, start_s)) + 1
    else:
        bins = int(whole_bins(number_or_key(source, signal.stop_s, 0.0) - start_s, bin_s, start_s))
    if bins < 1:
        raise ValueError(f"{source.path}: no whole bin of {bin_s:.6g} s from start_s ({start_s:.6g} s) to stop_s")
    return np.array([[start_s, start_s + bins * bin_s]])


def _survey(spikes: Spikes) -> tuple[float, float]:
    """Return the earliest and the latest time, and refuse times that go back within a unit."""
    last_C = np.full(spikes.units, -np.inf)
    earliest, latest = np.inf, -np.inf
    for times, units, places in spikes.blocks():
        if len(times) == 0:
            continue
        earliest, latest = min(earliest, float(times.min())), max(latest, float(times.max()))
        by_unit = np.argsort(units, kind="stable")
        ordered, owner = times[by_unit], units[by_unit]
        first = np.concatenate([[True], owner[1:] != owner[:-1]])
        before = np.where(first, last_C[owner], np.concatenate([[-np.inf], ordered[:-1]]))
        if (ordered < before).any():
            _refuse_order(spikes, by_unit[int(np.argmax(ordered < before))], times, units, places)
        final = np.concatenate([first[1:], [True]])
        last_C[owner[final]] = ordered[final]
    return earliest, latest


def _refuse_order(spikes: Spikes, at: int, times: np.ndarray, units: np.ndarray, places: np.ndarray) -> None:
    """A sign of joined pieces, or of another unit of time."""
    raise ValueError(
        f"{spikes.where}: unit {units[at]} goes back to {times[at]:.12g} s at spike {places[at]}: "
        "sort each unit's times (and check that they are not pieces of several recordings)"
    )


def tally(spikes: Spikes, span: Grid, grid: Grid) -> tuple[np.ndarray, int, float]:
    """Return spikes in the bins of `grid` by unit (C,), how many lie outside of `span`, and the time of the first."""
    inside_C = np.zeros(spikes.units, dtype=np.int64)
    outside, first = 0, np.nan
    for times, units, _ in spikes.blocks():
        strange = span.index(times) < 0
        if strange.any() and outside == 0:
            first = float(times[np.argmax(strange)])
        outside += int(strange.sum())
        inside_C += np.bincount(units[grid.index(times) >= 0], minlength=spikes.units)
    return inside_C, outside, first


def count_spikes(spikes: Spikes, grid: Grid, kept_C: np.ndarray) -> np.ndarray:
    """Return the counts (T, kept units), uint8 or uint16."""
    where = f"{spikes.where} (bin, unit)"
    columns = int(kept_C.sum())
    counts_TC = allocate((grid.total, columns), "uint16", where)
    flat = counts_TC.reshape(-1)
    column_C = np.where(kept_C, np.cumsum(kept_C) - 1, -1)
    for times, units, _ in spikes.blocks():
        bins, column = grid.index(times), column_C[units]
        counted = (bins >= 0) & (column >= 0)
        cells, found = np.unique(bins[counted] * columns + column[counted], return_counts=True)
        summed = flat[cells] + found
        if summed.max(initial=0) > np.iinfo(np.uint16).max:
            raise ValueError(f"{where}: a count is {int(summed.max())}; at most 65535 spikes fit into a bin")
        flat[cells] = summed
    return narrowed(counts_TC, where)
