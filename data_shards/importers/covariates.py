"""Stimulus and behaviour beside the signal, brought onto its bins."""

import numpy as np

from neurochorus.data_shards.importers.grid import rounding_s
from neurochorus.data_shards.importers.layouts import Layout
from neurochorus.data_shards.importers.odd_times import without_odd_times
from neurochorus.data_shards.importers.source import Source, number_or_key
from neurochorus.data_shards.importers.trials import trial_key
from neurochorus.data_shards.recipe import Recipe
from neurochorus.data_shards.recipe_covariates import CovariateRecipe


def read_covariate(source: Source, name: str, recipe: Recipe, layout: Layout, bin_s: float) -> np.ndarray:
    """Return a covariate as float32 (T, columns), NaN where missing; ValueError names file, key and lengths."""
    covariate = recipe.covariates[name]
    if covariate.per == "event":
        return _events(source, covariate, layout, bin_s)
    if covariate.per == "time":
        values = _at_times(source, covariate, layout)
    elif covariate.split_keys is not None:
        values = _by_split(source, covariate, layout)
    else:
        keys = [trial_key(source, recipe.trials, key) if covariate.per == "trial" else key for key in covariate.keys]
        columns = [(source.where(key), _numbers(source, key, covariate)) for key in keys]
        values = np.concatenate([_on_bins(where, column, covariate.per, layout) for where, column in columns], axis=1)
    if np.isinf(values).any():
        raise ValueError(f"{source.path}: covariate {name!r} holds infinite values: store missing ones as NaN")
    return values.astype(np.float32)


def _numbers(source: Source, key: str, recipe: CovariateRecipe) -> np.ndarray:
    """Return values in the unit of the covariate, float64; missing ones are NaN."""
    values = source.array(key)
    if values.dtype.kind not in "iufb":
        raise ValueError(
            f"{source.where(key)}: is of type {values.dtype}; a covariate is numbers (text can be a label)"
        )
    missing = recipe.missing
    if missing is not None and values.dtype.kind == "f":
        missing = values.dtype.type(missing)  # -999.9 in float32 is another number than in float64
    absent = None if missing is None else values == missing
    values = values.astype(np.float64)
    if absent is not None:
        values[absent] = np.nan
    return values * recipe.scale + recipe.offset


def _on_bins(where: str, values: np.ndarray, per: str, layout: Layout) -> np.ndarray:
    """Return (T, columns) from values by trial, by trial and bin, or by bin; NaN in bins of no trial."""
    bins = len(layout.signal_TC)
    if per == "trial":
        lead: tuple[int, ...] = (layout.trials,)
    else:
        lead = (bins,) if layout.trial_bins is None else (layout.trials, layout.trial_bins)
    if values.shape[: len(lead)] != lead or values.ndim > len(lead) + 1:
        raise ValueError(
            f"{where}: has shape {values.shape}; with one value per {per} of this signal expected {lead}, "
            "or that and a last axis of columns"
        )
    rows = values.reshape(int(np.prod(lead)), -1)
    if per != "trial":
        return rows
    found = np.full((bins, rows.shape[1]), np.nan)
    for piece in layout.pieces:
        found[piece.start : piece.stop] = rows[piece.trial]
    return found


def _by_split(source: Source, recipe: CovariateRecipe, layout: Layout) -> np.ndarray:
    """Return (T, columns) joined from an array of each split, NaN for splits that have none."""
    assert recipe.split_keys is not None
    assert layout.trial_bins is not None
    found = []
    for split, trials in layout.splits.items():
        key = recipe.split_keys.get(split)
        lead = (trials,) if recipe.per == "trial" else (trials, layout.trial_bins)
        values = np.full(lead, np.nan) if key is None else _numbers(source, key, recipe)
        if values.shape[: len(lead)] != lead or values.ndim > len(lead) + 1:
            raise ValueError(
                f"{source.where(str(key))}: has shape {values.shape}; expected {lead} for the split {split}, "
                "or that and a last axis of columns"
            )
        rows = values.reshape(int(np.prod(lead)), -1)
        found.append(np.repeat(rows, layout.trial_bins, axis=0) if recipe.per == "trial" else rows)
    width = max(values.shape[1] for values in found)
    found = [np.broadcast_to(part, (len(part), width)) if np.isnan(part).all() else part for part in found]
    if len({part.shape[1] for part in found}) > 1:
        raise ValueError(f"{source.path}: {list(recipe.split_keys.values())} differ in columns")
    return np.concatenate(found)


def _events(source: Source, recipe: CovariateRecipe, layout: Layout, bin_s: float) -> np.ndarray:
    """Return how many events of each key fall in each bin, (T, keys)."""
    assert layout.centers_T is not None
    starts = layout.centers_T - bin_s / 2
    counts = np.zeros((len(starts), len(recipe.keys)), dtype=np.float32)
    for column, key in enumerate(recipe.keys):
        values = source.array(key, ndim=1)
        if values.dtype.kind not in "iuf":
            raise ValueError(f"{source.where(key)}: is of type {values.dtype}; expected times in seconds")
        # the same tolerance as for spikes: an event on a border belongs to the bin that it opens
        times = np.sort(values[np.isfinite(values)].astype(np.float64))
        times += rounding_s(times, bin_s)
        for piece in layout.pieces:  # trials may overlap, and an event is then in each
            own = starts[piece.start : piece.stop]
            inside = times[slice(*np.searchsorted(times, (own[0], own[-1] + bin_s)))]
            at = np.searchsorted(own, inside, side="right") - 1
            np.add.at(counts[piece.start : piece.stop, column], at[inside - own[at] < bin_s], 1)
    return counts


def _at_times(source: Source, recipe: CovariateRecipe, layout: Layout) -> np.ndarray:
    """Return samples at times of their own, interpolated at the middles of bins, (T, columns)."""
    assert layout.centers_T is not None
    columns, times = [], None
    for key in recipe.keys:
        column = _numbers(source, key, recipe)
        timing = source.timing(key)
        if timing is not None:
            column = column * timing.scale + timing.offset
        before, times = times, _times(source, recipe, key, len(column))
        if before is not None and not np.array_equal(before, times, equal_nan=True):
            raise ValueError(f"{source.path}: {recipe.keys} have times of their own: make them covariates of their own")
        if column.shape[:1] != times.shape or column.ndim > 2:
            raise ValueError(
                f"{source.where(key)}: has shape {column.shape} but {recipe.time!r} has {len(times)} times: "
                "expected one value for each time"
            )
        columns.append(column.reshape(len(times), -1))
    assert times is not None
    samples = np.concatenate(columns, axis=1)
    known = np.isfinite(samples).all(axis=1) & np.isfinite(times)
    return interpolate(layout.centers_T, times[known], samples[known], recipe.max_gap_s)


def _times(source: Source, recipe: CovariateRecipe, key: str, count: int) -> np.ndarray:
    """Return the times of `count` samples in s: named by the recipe, or by a self-describing file."""
    timing = source.timing(key)
    time = recipe.time
    if recipe.rate is not None or (time is None and timing is not None and timing.rate is not None):
        rate = number_or_key(source, recipe.rate, timing.rate or 1.0 if timing else 1.0)
        if not rate > 0:
            raise ValueError(f"{source.path}: the rate of {key!r} is {rate}; expected samples per second")
        start_s = number_or_key(source, recipe.start_s, timing.start_s if timing and recipe.rate is None else 0.0)
        return start_s + np.arange(count) / rate
    if time is None and timing is not None:
        time = timing.times
    if time is None:
        raise ValueError(f"{source.where(key)}: the file does not say when its samples were taken: set time or rate")
    if recipe.implausible == "drop":
        return without_odd_times(source, time)
    times = source.times(time)
    if len(times) > 1 and np.diff(times).min() < 0:
        at = int(np.argmin(np.diff(times))) + 1
        raise ValueError(f"{source.where(time)}: goes back to {times[at]:.6g} s at {at}: sort the samples by time")
    return times


def interpolate(at_T: np.ndarray, times: np.ndarray, samples: np.ndarray, max_gap_s: float) -> np.ndarray:
    """Return `samples` (n, d), taken at sorted `times`, interpolated linearly at `at_T`: (T, d).

    NaN before the first sample, after the last, and where the samples on both sides are more than max_gap_s apart.
    """
    if len(times) == 0:
        return np.full((len(at_T), samples.shape[1]), np.nan)
    values = np.stack([np.interp(at_T, times, column, left=np.nan, right=np.nan) for column in samples.T], axis=1)
    after = np.clip(np.searchsorted(times, at_T), 1, max(len(times) - 1, 1))
    if len(times) > 1:
        between = (at_T > times[after - 1]) & (at_T < times[after])  # a bin that falls on a sample is known
        values[between & (times[after] - times[after - 1] > max_gap_s)] = np.nan
    return values
