"""A continuous signal whose samples come faster than bins: reduced into bins block by block."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from neurochorus.data_shards.importers.dense import Ordered
from neurochorus.data_shards.importers.grid import BIN_TOLERANCE, Grid
from neurochorus.data_shards.importers.notes import Notes
from neurochorus.data_shards.importers.scratch import allocate, blocks, narrowed
from neurochorus.data_shards.importers.source import ArrayView, Source, number_or_key
from neurochorus.data_shards.recipe_signal import SamplingRecipe, SignalRecipe
from neurochorus.data_shards.recording import as_counts, as_signal

STEPS_SEEN = 2**20  # steps between samples of which the median is taken
GAP = 1.5  # median steps: further apart than that, a sample is missing


FRAME_TOLERANCE = 0.02
"Of a bin: by so little may the step from sample to sample differ where a bin is meant to hold one."
STEP_TOLERANCE = 1e-3
"Of a bin: how much longer the median of steps between measured times may be."


@dataclass(frozen=True)
class Clock:
    """When samples were taken: at `times` (samples,), or from start_s on every `step` s; `runs` (n, 2) are unbroken."""

    count: int
    step: float
    runs: np.ndarray
    start_s: float = 0.0
    times: ArrayView | None = None
    shift_s: float = 0.0
    "Of measured times against the bins."

    def centred_in(self, bin_s: float) -> "Clock":
        """With each sample counted at the middle of the step that it begins, where a bin holds one sample.

        On the border of two bins jitter would decide which of them gets it, and leave some with none.
        """
        return replace(self, shift_s=self.step / 2) if abs(self.step - bin_s) <= FRAME_TOLERANCE * bin_s else self

    def at(self, start: int, stop: int) -> np.ndarray:
        """Return the times of samples [start, stop) in s by which they fall into bins."""
        if self.times is None:
            return self.start_s + np.arange(start, stop) * self.step
        return np.asarray(self.times[start:stop]).astype(np.float64) + self.shift_s


@dataclass(frozen=True)
class Samples:
    """A signal (samples, channels) on disk with its clock; values are stored * scale + offset."""

    array: Ordered
    clock: Clock
    scale: float = 1.0
    offset: float = 0.0


def open_samples(source: Source, signal: SignalRecipe, bin_s: float, notes: Notes) -> Samples:
    """Return the samples that a recipe names; a self-describing format brings its own clock where the recipe has none.

    ValueError for samples slower than bins, and for times that go back or are not finite.
    """
    assert signal.key is not None
    array = Ordered.open(source, signal.key, "continuous", signal.axes)
    timing = source.timing(signal.key)
    sampling = signal.sampling
    if sampling is None:
        assert timing is not None
        sampling = SamplingRecipe(rate=timing.rate, start_s=timing.start_s if timing.rate else 0.0, times=timing.times)
    clock = _even_clock(source, sampling, array.shape[0])
    if sampling.times is not None:
        clock = _clock_of(source, sampling.times, sampling.max_gap_s, array.shape[0], notes).centred_in(bin_s)
    if clock.step > bin_s * (1 + (BIN_TOLERANCE if clock.times is None else STEP_TOLERANCE)):
        raise ValueError(
            f"{array.where}: samples come every {clock.step:.6g} s, slower than bin_s ({bin_s:.6g} s): "
            "set bin_s to that or more"
        )
    return Samples(array, clock, timing.scale if timing else 1.0, timing.offset if timing else 0.0)


def _even_clock(source: Source, sampling: SamplingRecipe, count: int) -> Clock:
    rate, start_s = number_or_key(source, sampling.rate, 1.0), number_or_key(source, sampling.start_s, 0.0)
    if not rate > 0:
        raise ValueError(f"{source.path}: signal.sampling.rate is {rate}; expected samples per second")
    return Clock(count, 1 / rate, np.array([[start_s, start_s + count / rate]]), start_s)


def _clock_of(source: Source, key: str, max_gap_s: float | None, count: int, notes: Notes) -> Clock:
    times = source.view(key, ndim=1)
    where = source.where(key)
    if times.shape[0] != count:
        raise ValueError(f"{where}: has {times.shape[0]} times but the signal has {count} samples")
    if times.dtype.kind not in "iuf":
        raise ValueError(f"{where}: is of type {times.dtype}; expected times in seconds")
    first = np.diff(np.asarray(times[: STEPS_SEEN + 1]).astype(np.float64))
    step = float(np.median(first)) if len(first) else 0.0
    if not step > 0:
        raise ValueError(f"{where}: the median step from sample to sample is {step}; expected times that rise")
    breaks = _breaks(times, where, GAP * step if max_gap_s is None else max_gap_s)
    begun = [float(times[0]), *[after for _, after in breaks]]
    ended = [*[before for before, _ in breaks], float(times[count - 1])]
    if breaks:
        longest = max(after - before for before, after in breaks)
        notes.facts["gaps"] = len(breaks)
        notes.say(f"{len(breaks)} gaps between samples end segments, the longest {longest:.6g} s ({key})")
    return Clock(count, step, np.stack([begun, np.array(ended) + step], axis=1), times=times)


def _breaks(times: ArrayView, where: str, max_gap_s: float) -> list[tuple[float, float]]:
    """Return (time before, time) of each sample that comes more than max_gap_s after the one before."""
    found: list[tuple[float, float]] = []
    before = None
    for start, stop in blocks(times.shape[0], 8):
        values = np.asarray(times[start:stop]).astype(np.float64)
        if not np.isfinite(values).all():
            place = int(np.argmin(np.isfinite(values)))
            raise ValueError(f"{where}: the time at {start + place} is {values[place]}; expected finite times")
        steps = np.diff(values, prepend=values[0] if before is None else before)
        if steps.min() < 0:
            place = int(np.argmin(steps))
            raise ValueError(
                f"{where}: goes back to {values[place]:.6g} s at {start + place}: sort the samples by time"
            )
        found += [(float(values[at] - steps[at]), float(values[at])) for at in np.flatnonzero(steps > max_gap_s)]
        before = values[-1]
    return found


def reduce_samples(
    samples: Samples, grid: Grid, kept_C: np.ndarray, modality: str, how: str
) -> tuple[np.ndarray, np.ndarray]:
    """Return the signal (T, kept units) as mean, sum or last of each bin's samples, and which bins had any, (T,).

    Every bin is reduced from all of its samples at once, so the blocks in which they are read change nothing.
    """
    where = samples.array.where
    signal_TC = allocate((grid.total, int(kept_C.sum())), "uint16" if modality == "spikes" else "float32", where)
    filled_T = np.zeros(grid.total, dtype=bool)
    convert = as_counts if modality == "spikes" else as_signal
    for bins, values in _whole_bins(samples, grid, kept_C):
        starts = np.concatenate([[0], np.flatnonzero(np.diff(bins)) + 1])
        reduced = _reduce(values, starts, how)
        signal_TC[bins[starts]] = convert(reduced, f"{where}, reduced into bins (bin, unit)")
        filled_T[bins[starts]] = True
    return (narrowed(signal_TC, where) if modality == "spikes" else signal_TC), filled_T


def _reduce(values: np.ndarray, starts: np.ndarray, how: str) -> np.ndarray:
    ends = np.concatenate([starts[1:], [len(values)]])
    if how == "last":
        return values[ends - 1]
    sums = np.add.reduceat(values, starts, axis=0)
    return sums if how == "sum" else sums / (ends - starts)[:, None]


def _whole_bins(samples: Samples, grid: Grid, kept_C: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield (bin of each sample, float64 values (samples, kept units)); all samples of a bin come together."""
    held: tuple[np.ndarray, np.ndarray] | None = None
    for start, stop in blocks(samples.clock.count, samples.array.row_bytes, samples.array.chunk):
        index = grid.index(samples.clock.at(start, stop))
        wanted = np.flatnonzero(index >= 0)
        if len(wanted) == 0:
            continue
        low, high = int(wanted[0]), int(wanted[-1]) + 1
        values = samples.array.rows(start + low, start + high)
        values = values if len(wanted) == high - low else values[wanted - low]
        values = values if kept_C.all() else values[:, kept_C]
        if values.dtype.kind not in "iufb":
            raise ValueError(f"{samples.array.where}: is of type {values.dtype}; expected numbers")
        values = values.astype(np.float64)
        if (samples.scale, samples.offset) != (1.0, 0.0):
            values = values * samples.scale + samples.offset
        bins = index[wanted]
        if held is not None:
            bins, values = np.concatenate([held[0], bins]), np.concatenate([held[1], values])
        cut = int(np.searchsorted(bins, bins[-1]))  # the last bin may go on in the next block
        if cut:
            yield bins[:cut], values[:cut]
        held = bins[cut:], values[cut:]
    if held is not None:
        yield held
