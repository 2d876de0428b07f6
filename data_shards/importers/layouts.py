"""The ways in which a file may hold a signal: by trial, in one stretch, or as spike times to be binned."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from neurochorus.data_shards.importers.archive import Archive
from neurochorus.data_shards.recipe_keys import FromKey
from neurochorus.data_shards.recipe_signal import Axis, SignalRecipe
from neurochorus.data_shards.recording import as_counts, as_signal

BIN_TOLERANCE = 1e-6  # of a bin: a spike at start + k * bin_s belongs to bin k in spite of rounding


@dataclass(frozen=True)
class Layout:
    """A signal in bins: trials joined end to end (trial_bins each), or one stretch (trial_bins None).

    centers_T: the absolute time of each bin's middle in s, where known.
    """

    signal_TC: np.ndarray
    trial_bins: int | None
    centers_T: np.ndarray | None
    notes: dict[str, Any]

    @property
    def trials(self) -> int:
        return len(self.signal_TC) // self.trial_bins if self.trial_bins else 0


def read_layout(archive: Archive, recipe: SignalRecipe, modality: str, bin_s: float, units: int | None) -> Layout:
    """Return the signal of a file; `units` is how many the file describes, where it does.

    Raises ValueError naming file and key for wrong shapes, counts that are none, and spikes out of order or range.
    """
    if recipe.layout == "spike_times":
        return _bin_spike_times(archive, recipe, bin_s, units)
    assert recipe.key is not None
    natural: list[Axis] = ["trial", "bin", "unit"] if recipe.layout == "trials" else ["bin", "unit"]
    values = archive.array(recipe.key, ndim=len(natural))
    if 0 in values.shape:
        raise ValueError(f"{archive.where(recipe.key)}: is empty, of shape {values.shape}")
    values = values.transpose([(recipe.axes or natural).index(axis) for axis in natural])
    convert = as_counts if modality == "spikes" else as_signal
    signal = convert(values, f"{archive.where(recipe.key)} ({', '.join(natural)})")
    return Layout(
        signal_TC=signal.reshape(-1, signal.shape[-1]),
        trial_bins=signal.shape[1] if recipe.layout == "trials" else None,
        centers_T=_bin_centers(archive, recipe, signal.shape[:-1], bin_s),
        notes={"layout": recipe.layout, "binned": "in the source file"},
    )


def _bin_centers(archive: Archive, recipe: SignalRecipe, shape: tuple[int, ...], bin_s: float) -> np.ndarray | None:
    if recipe.bin_centers is None:
        return None
    where = archive.where(recipe.bin_centers)
    centers = archive.array(recipe.bin_centers)
    if centers.shape != shape or centers.dtype.kind not in "iuf" or not np.isfinite(centers).all():
        raise ValueError(
            f"{where}: is {centers.dtype} of shape {centers.shape}; expected finite times of shape {shape}"
        )
    steps = np.diff(centers.astype(np.float64), axis=-1)
    if steps.size and np.abs(steps - bin_s).max() > 0.01 * bin_s:
        raise ValueError(
            f"{where}: bins are {steps.min():.6g} to {steps.max():.6g} s apart but bin_s is {bin_s:.6g}: correct bin_s"
        )
    return centers.astype(np.float64).reshape(-1)


def _bin_spike_times(archive: Archive, recipe: SignalRecipe, bin_s: float, units: int | None) -> Layout:
    assert recipe.times is not None
    assert recipe.unit_index is not None
    times, unit_index = archive.times(recipe.times), _unit_index(archive, recipe.unit_index, units)
    if len(times) != len(unit_index):
        raise ValueError(
            f"{archive.where(recipe.times)} has {len(times)} spikes but {recipe.unit_index!r} has {len(unit_index)}: "
            "expected one unit for each spike"
        )
    if len(times) == 0:
        raise ValueError(f"{archive.where(recipe.times)}: holds no spike")
    _check_order(archive.where(recipe.times), times, unit_index)
    start_s, bins = _span(archive, recipe, times, bin_s)
    bin_index = np.floor((times - start_s) / bin_s + BIN_TOLERANCE).astype(np.int64)
    inside = (bin_index >= 0) & (bin_index < bins)
    if not inside.all() and recipe.outside == "refuse":
        first = times[np.argmin(inside)]
        raise ValueError(
            f"{archive.where(recipe.times)}: {int((~inside).sum())} spikes lie outside the {bins} whole bins from "
            f"{start_s:.6g} to {start_s + bins * bin_s:.6g} s, the first at {first:.6g} s: "
            "correct start_s and stop_s, or set `outside: drop`"
        )
    columns = units if units is not None else int(unit_index.max()) + 1
    where = f"{archive.where(recipe.times)} (bin, unit)"
    return Layout(
        signal_TC=as_counts(_count(bin_index[inside], unit_index[inside], (bins, columns), where), where),
        trial_bins=None,
        centers_T=start_s + (np.arange(bins) + 0.5) * bin_s,
        notes={
            "layout": recipe.layout,
            "binned": f"spike times counted in bins of {bin_s:.6g} s",
            "start_s": start_s,
            "spikes_dropped": int((~inside).sum()),
        },
    )


def _count(bin_index: np.ndarray, unit_index: np.ndarray, shape: tuple[int, int], where: str) -> np.ndarray:
    """Return how often each (bin, unit) occurs, uint16; unit by unit, as bincount makes 8 bytes a cell."""
    counts_TC = np.zeros(shape, dtype=np.uint16)
    for unit in np.unique(unit_index):
        counts_TC[:, unit] = as_counts(np.bincount(bin_index[unit_index == unit], minlength=shape[0]), where)
    return counts_TC


def _unit_index(archive: Archive, key: str, units: int | None) -> np.ndarray:
    index = archive.array(key, ndim=1)
    where = archive.where(key)
    if index.dtype.kind not in "iu":
        raise ValueError(f"{where}: is of type {index.dtype}; expected whole numbers from 0, the unit of each spike")
    lowest, highest = (int(index.min()), int(index.max())) if len(index) else (0, 0)
    if lowest < 0 or (units is not None and highest >= units):
        known = "" if units is None else f" and the file describes {units} units"
        raise ValueError(f"{where}: runs from {lowest} to {highest}{known}; expected units numbered from 0")
    return index.astype(np.int64)


def _check_order(where: str, times: np.ndarray, unit_index: np.ndarray) -> None:
    """Refuse times that go back within a unit: a sign of joined pieces, or of another unit of time."""
    by_unit = np.argsort(unit_index, kind="stable")
    backwards = (np.diff(times[by_unit]) < 0) & (np.diff(unit_index[by_unit]) == 0)
    if backwards.any():
        at = by_unit[int(np.argmax(backwards)) + 1]
        raise ValueError(
            f"{where}: unit {unit_index[at]} goes back to {times[at]:.6g} s at spike {at}: "
            "sort each unit's times (and check that they are not pieces of several recordings)"
        )


def _span(archive: Archive, recipe: SignalRecipe, times: np.ndarray, bin_s: float) -> tuple[float, int]:
    """Return where bin 0 starts (s) and how many bins there are."""
    if recipe.start_s is None and times.min() < 0:
        raise ValueError(
            f"{archive.where(recipe.times or '')}: the earliest spike is at {times.min():.6g} s: "
            "times are negative; set signal.start_s if that is meant"
        )
    start_s = _seconds(archive, recipe.start_s, float(np.floor(times.min() / bin_s + BIN_TOLERANCE) * bin_s))
    if recipe.stop_s is None:
        bins = int(np.floor((times.max() - start_s) / bin_s + BIN_TOLERANCE)) + 1
    else:
        bins = int(np.floor((_seconds(archive, recipe.stop_s, 0.0) - start_s) / bin_s + BIN_TOLERANCE))
    if bins < 1:
        raise ValueError(f"{archive.path}: no whole bin of {bin_s:.6g} s from start_s ({start_s:.6g} s) to stop_s")
    return start_s, bins


def _seconds(archive: Archive, value: float | FromKey | None, default: float) -> float:
    if value is None:
        return default
    return archive.number(value.key) if isinstance(value, FromKey) else float(value)
