"""The table of trials of a long recording: when each was, which are kept, and what is known of each."""

from dataclasses import dataclass

import numpy as np

from neurochorus.data_shards.expressions import Expression
from neurochorus.data_shards.importers.grid import merge, whole_bins
from neurochorus.data_shards.importers.notes import Notes
from neurochorus.data_shards.importers.source import Source
from neurochorus.data_shards.importers.units import condition
from neurochorus.data_shards.recipe_trials import TrialsRecipe

EDGE = 1e-6  # of a bin: how far a trial may reach over the end of what was recorded in spite of rounding


@dataclass(frozen=True)
class Trials:
    """Kept trials in the order of time: intervals (n, 2) in s, and rows (n,), where each stands in its table."""

    intervals: np.ndarray
    rows: np.ndarray
    count: int
    "Rows of the table, kept or not."


def read_trials(source: Source, recipe: TrialsRecipe, recorded: np.ndarray, bin_s: float, notes: Notes) -> Trials:
    """Return the trials that meet the recipe's condition, lie in `recorded` (intervals (n, 2) in s) and do not overlap.

    Dropped ones are noted by reason. ValueError where none is left, or the recipe refuses trials that overlap.
    """
    intervals = _intervals(source, recipe)
    count = len(intervals)
    kept = np.ones(count, dtype=bool)
    if recipe.where is not None:
        expression = Expression(recipe.where)
        columns = {name: source.array(trial_key(source, recipe, name), ndim=1) for name in expression.names}
        kept = _without(kept, ~condition(source, expression, columns, count, "trials"), f"where {recipe.where}", notes)
    known = np.asarray(np.isfinite(intervals).all(axis=1))
    kept = _without(kept, ~known, "no start or stop", notes)
    intervals = np.where(np.isfinite(intervals), intervals, 0.0)
    kept = _without(
        kept, whole_bins(intervals[:, 1] - intervals[:, 0], bin_s, intervals[:, 0]) < 1, "shorter than a bin", notes
    )
    outside = ~_within(intervals, merge(recorded), EDGE * bin_s)
    overlapping = _overlapping(intervals, kept & ~outside, EDGE * bin_s)
    for bad, what in ((outside, "outside of what was recorded"), (overlapping, "overlaps the trial before")):
        if recipe.overlap == "refuse" and (kept & bad).any():
            row = int(np.argmax(kept & bad))
            raise ValueError(
                f"{source.path}: trial {row}, from {intervals[row, 0]:.6g} to {intervals[row, 1]:.6g} s: {what}: "
                "correct the times, or set `trials.overlap: drop`"
            )
        kept = _without(kept, bad, what, notes)
    if not kept.any():
        raise ValueError(
            f"{source.path}: of {count} trials none is kept: {notes.dropped.get('trials', 'there are none')}"
        )
    rows = np.flatnonzero(kept)
    rows = rows[np.argsort(intervals[rows, 0], kind="stable")]
    return Trials(intervals[rows], rows, count)


def trial_key(source: Source, recipe: TrialsRecipe | None, key: str) -> str:
    """Return the full key of a column of the table of trials."""
    table = None if recipe is None else recipe.table or source.tables.get("trials")
    return source.column(table, key)


def _intervals(source: Source, recipe: TrialsRecipe) -> np.ndarray:
    """Return start and stop of every trial in s, (n, 2); NaN where the file has none."""
    names = [recipe.align] if recipe.align is not None else [recipe.start, recipe.stop]
    columns = []
    for name in names:
        assert name is not None
        key = trial_key(source, recipe, name)
        values = source.array(key, ndim=1)
        if values.dtype.kind not in "iuf":
            raise ValueError(f"{source.where(key)}: is of type {values.dtype}; expected times in seconds")
        columns.append(values.astype(np.float64))
    if recipe.align is not None:
        assert recipe.window_s is not None
        return columns[0][:, None] + np.asarray(recipe.window_s)
    if len(columns[0]) != len(columns[1]):
        raise ValueError(
            f"{source.path}: {names[0]!r} has {len(columns[0])} trials but {names[1]!r} has {len(columns[1])}"
        )
    return np.stack(columns, axis=1)


def _without(kept: np.ndarray, bad: np.ndarray, why: str, notes: Notes) -> np.ndarray:
    notes.drop("trials", why, int((kept & bad).sum()))
    return kept & ~bad


def _within(intervals: np.ndarray, merged: np.ndarray, edge: float) -> np.ndarray:
    """Return (n,) bool: which intervals lie wholly in one of the merged ones."""
    if len(merged) == 0:
        return np.zeros(len(intervals), dtype=bool)
    at = np.maximum(np.searchsorted(merged[:, 0], intervals[:, 0] + edge, side="right") - 1, 0)
    return (intervals[:, 0] >= merged[at, 0] - edge) & (intervals[:, 1] <= merged[at, 1] + edge)


def _overlapping(intervals: np.ndarray, kept: np.ndarray, edge: float) -> np.ndarray:
    """Return (n,) bool: kept intervals that start before the last kept one, by time, has ended."""
    found = np.zeros(len(intervals), dtype=bool)
    end = -np.inf
    for row in np.argsort(intervals[:, 0], kind="stable"):
        if not kept[row]:
            continue
        if intervals[row, 0] < end - edge:
            found[row] = True
        else:
            end = intervals[row, 1]
    return found
