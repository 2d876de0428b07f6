"""Stimulus and behaviour beside the signal, brought onto its bins."""

import numpy as np

from neurochorus.data_shards.importers.archive import Archive
from neurochorus.data_shards.importers.layouts import Layout
from neurochorus.data_shards.recipe_covariates import CovariateRecipe


def read_covariate(archive: Archive, name: str, recipe: CovariateRecipe, layout: Layout) -> np.ndarray:
    """Return a covariate as float32 (T, columns), NaN where missing; ValueError names file, key and lengths."""
    columns = [_numbers(archive, key, recipe.missing) for key in recipe.keys]
    if recipe.per == "time":
        values = _interpolate(archive, recipe, columns, layout)
    else:
        values = np.concatenate(
            [_on_bins(archive.where(key), column, recipe.per, layout) for key, column in zip(recipe.keys, columns)],
            axis=1,
        )
    if np.isinf(values).any():
        raise ValueError(f"{archive.path}: covariate {name!r} holds infinite values: store missing ones as NaN")
    return values.astype(np.float32)


def _numbers(archive: Archive, key: str, missing: float | None) -> np.ndarray:
    values = archive.array(key)
    if values.dtype.kind not in "iufb":
        raise ValueError(
            f"{archive.where(key)}: is of type {values.dtype}; a covariate is numbers (text can be a label)"
        )
    values = values.astype(np.float64)
    if missing is not None:
        values[values == missing] = np.nan
    return values


def _on_bins(where: str, values: np.ndarray, per: str, layout: Layout) -> np.ndarray:
    """Return (T, columns) from values by trial, by trial and bin, or by bin."""
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
    return np.repeat(rows, layout.trial_bins or 1, axis=0) if per == "trial" else rows


def _interpolate(archive: Archive, recipe: CovariateRecipe, columns: list[np.ndarray], layout: Layout) -> np.ndarray:
    assert recipe.time is not None
    assert layout.centers_T is not None
    times = archive.times(recipe.time)
    if len(times) > 1 and np.diff(times).min() < 0:
        at = int(np.argmin(np.diff(times))) + 1
        raise ValueError(
            f"{archive.where(recipe.time)}: goes back to {times[at]:.6g} s at {at}: sort the samples by time"
        )
    for key, column in zip(recipe.keys, columns):
        if column.shape[:1] != times.shape or column.ndim > 2:
            raise ValueError(
                f"{archive.where(key)}: has shape {column.shape} but {recipe.time!r} has {len(times)} times: "
                "expected one value for each time"
            )
    samples = np.concatenate([column.reshape(len(times), -1) for column in columns], axis=1)
    known = np.isfinite(samples).all(axis=1)
    return interpolate(layout.centers_T, times[known], samples[known], recipe.max_gap_s)


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
