"""The ways in which a file may hold a signal, brought to one: bins by unit, and the pieces that are unbroken."""

from dataclasses import dataclass, field, replace

import numpy as np

from neurochorus.data_shards.importers.dense import bin_centers, parts, read_dense, units_of
from neurochorus.data_shards.importers.grid import Grid, bins_inside, intersect, merge
from neurochorus.data_shards.importers.notes import Notes
from neurochorus.data_shards.importers.samples import open_samples, reduce_samples
from neurochorus.data_shards.importers.scratch import blocks, columns_of
from neurochorus.data_shards.importers.source import Source
from neurochorus.data_shards.importers.spikes import count_spikes, open_spikes, plausible, recorded_span, tally
from neurochorus.data_shards.importers.trials import Trials, read_trials
from neurochorus.data_shards.importers.units import UnitTable
from neurochorus.data_shards.recipe import Recipe

MOST_BINS = 2**28  # three days of 1 ms: more is a wrong unit of time


@dataclass(frozen=True)
class Piece:
    """Bins [start, stop) that belong together: a stretch, or the trial that stands in row `trial` of its table."""

    start: int
    stop: int
    trial: int | None = None


@dataclass(frozen=True)
class Layout:
    """A signal in bins (T, C) of the kept units; kept_C says which of the file's units those are."""

    signal_TC: np.ndarray
    kept_C: np.ndarray
    pieces: list[Piece]
    good_T: np.ndarray | None = None
    "False in bins that no segment may hold; None: all are good."
    centers_T: np.ndarray | None = None
    "The time of each bin's middle in s, where known."
    trials: int = 0
    "Rows of the table of trials, or of the array by trial; 0 without trials."
    trial_bins: int | None = None
    "Bins of each trial, for an array by trial."
    splits: dict[str, int] = field(default_factory=dict)
    "Trials of each split, in the order of the array, where each split is an array of its own."


def read_layout(source: Source, recipe: Recipe, bin_s: float, table: UnitTable, notes: Notes) -> Layout:
    """Return the signal of a file, and note what was left out.

    Raises ValueError naming file and key for wrong shapes, counts that are none, and spikes out of order or range.
    """
    assert recipe.signal is not None
    signal = recipe.signal
    notes.facts["layout"] = signal.layout
    if signal.layout == "spike_times":
        return _spike_layout(source, recipe, bin_s, table, notes)
    sampled = signal.sampling is not None
    if signal.layout == "continuous" and signal.bin_centers is None and signal.key is not None and not sampled:
        sampled = source.has(signal.key) and source.timing(signal.key) is not None
    layout = (_sample_layout if sampled else _dense_layout)(source, recipe, bin_s, table, notes)
    if recipe.units.min_rate is None:
        return layout
    kept_C = table.too_slow(layout.kept_C, *_spikes_and_seconds(layout, bin_s))
    still = kept_C[layout.kept_C]
    return replace(layout, signal_TC=columns_of(layout.signal_TC, still, str(source.path)), kept_C=kept_C)


def _spike_layout(source: Source, recipe: Recipe, bin_s: float, table: UnitTable, notes: Notes) -> Layout:
    assert recipe.signal is not None
    spikes = plausible(open_spikes(source, recipe.signal, table.described), recipe.signal, notes)
    kept_C = table.kept(spikes.units)
    span = recorded_span(source, recipe.signal, spikes, bin_s)
    whole = Grid.of(span, bin_s)
    start_s = float(whole.starts_s[0])
    notes.facts |= {"binned": f"spike times counted in bins of {bin_s:.6g} s", "start_s": start_s}
    grid, pieces, trials = _cut(source, recipe, span, bin_s, notes)
    centers_T = grid.centers()
    kept_C, good_T = table.observed(kept_C, centers_T, bin_s)
    spikes_C, outside, first = tally(spikes, whole, grid)
    if outside and recipe.signal.outside == "refuse":
        raise ValueError(
            f"{spikes.where}: {outside} spikes lie outside the {whole.total} whole bins from "
            f"{start_s:.12g} to {start_s + whole.total * bin_s:.12g} s, the first at {first:.12g} s: "
            "correct start_s and stop_s, or set `outside: drop`"
        )
    notes.facts["spikes_dropped"] = outside
    notes.drop("spikes", "before start_s or from stop_s on", outside)
    kept_C = table.too_slow(kept_C, spikes_C, grid.total * bin_s)
    notes.drop("spikes", "of units that are dropped", int(spikes_C[~kept_C].sum()))
    signal_TC = count_spikes(spikes, grid, kept_C)
    return Layout(signal_TC, kept_C, pieces, good_T, centers_T, 0 if trials is None else trials.count)


def _sample_layout(source: Source, recipe: Recipe, bin_s: float, table: UnitTable, notes: Notes) -> Layout:
    assert recipe.signal is not None
    samples = open_samples(source, recipe.signal, bin_s, notes)
    kept_C = table.kept(samples.array.shape[-1])
    how = recipe.signal.reduce or ("sum" if recipe.modality == "spikes" else "mean")
    notes.facts |= {
        "binned": f"{how} of samples {samples.clock.step:.6g} s apart in bins of {bin_s:.6g} s",
        "start_s": float(samples.clock.runs[0, 0]),
    }
    grid, pieces, trials = _cut(source, recipe, samples.clock.runs, bin_s, notes)
    centers_T = grid.centers()
    kept_C, good_T = table.observed(kept_C, centers_T, bin_s)
    signal_TC, filled_T = reduce_samples(samples, grid, kept_C, recipe.modality, how)
    notes.drop("bins", "no sample", int((~filled_T).sum()))
    good_T = filled_T if good_T is None else good_T & filled_T
    return Layout(signal_TC, kept_C, pieces, good_T, centers_T, 0 if trials is None else trials.count)


def _dense_layout(source: Source, recipe: Recipe, bin_s: float, table: UnitTable, notes: Notes) -> Layout:
    assert recipe.signal is not None
    found = parts(source, recipe.signal)
    first = found[0][1][0]
    kept_C = table.kept(units_of(found[0][1]))
    centers_T = bin_centers(source, recipe.signal.bin_centers, first.shape[:-1], bin_s)
    notes.facts["binned"] = "in the source file"
    if recipe.signal.layout == "trials":
        bins = first.shape[1]
        splits = {str(split): arrays[0].shape[0] for split, arrays in found if split is not None}
        trials = sum(arrays[0].shape[0] for _, arrays in found)
        pieces = [Piece(trial * bins, (trial + 1) * bins, trial) for trial in range(trials)]
        signal_TC = read_dense(found, recipe.modality, kept_C)
        return Layout(signal_TC, kept_C, pieces, None, centers_T, trials, bins, splits)
    good_T, pieces, trials = None, [Piece(0, first.shape[0])], 0
    if centers_T is not None:
        kept_C, good_T = table.observed(kept_C, centers_T, bin_s)
        good_T = _observed_bins(source, recipe, centers_T, bin_s, good_T, notes)
        pieces, trials = _pieces_between(source, recipe, centers_T, bin_s, notes) or (pieces, 0)
    return Layout(read_dense(found, recipe.modality, kept_C), kept_C, pieces, good_T, centers_T, trials)


def _cut(
    source: Source, recipe: Recipe, recorded: np.ndarray, bin_s: float, notes: Notes
) -> tuple[Grid, list[Piece], Trials | None]:
    """Return the bins of the trials, or of all that was recorded (intervals (n, 2)) and observed, and the pieces."""
    if recipe.observed is not None:
        observed = _observed(source, recipe)
        seconds = float((recorded[:, 1] - recorded[:, 0]).sum())
        recorded = intersect(recorded, observed)
        lost = seconds - float((recorded[:, 1] - recorded[:, 0]).sum())
        notes.drop("bins", "not observed", round(lost / bin_s))
    trials = None
    if recipe.trials is not None:
        trials = read_trials(source, recipe.trials, recorded, bin_s, notes)
    grid = Grid.of(recorded if trials is None else trials.intervals, bin_s)
    if grid.total == 0:
        raise ValueError(f"{source.path}: no whole bin of {bin_s:.6g} s was recorded and observed: check the times")
    if grid.total > MOST_BINS:
        raise ValueError(
            f"{source.path}: {grid.total} bins of {bin_s:.6g} s, from {grid.starts_s[0]:.6g} s on; at most {MOST_BINS} "
            "are imported: check bin_s, start_s, stop_s and the unit of time"
        )
    rows = [None] * len(grid.bins) if trials is None else [int(row) for row in trials.rows]
    ends = np.cumsum(grid.bins)
    pieces = [Piece(int(stop - bins), int(stop), row) for stop, bins, row in zip(ends, grid.bins, rows)]
    return grid, pieces, trials


def _pieces_between(
    source: Source, recipe: Recipe, centers_T: np.ndarray, bin_s: float, notes: Notes
) -> tuple[list[Piece], int] | None:
    """Return the trials of a signal that is in bins already: the bins whose middle lies in each."""
    if recipe.trials is None:
        return None
    recorded = np.array([[centers_T[0] - bin_s / 2, centers_T[-1] + bin_s / 2]])
    trials = read_trials(source, recipe.trials, recorded, bin_s, notes)
    starts, stops = (np.searchsorted(centers_T, trials.intervals[:, column]) for column in (0, 1))
    found = zip(starts.tolist(), stops.tolist(), trials.rows.tolist())
    return [Piece(start, stop, row) for start, stop, row in found if stop > start], trials.count


def _observed_bins(
    source: Source, recipe: Recipe, centers_T: np.ndarray, bin_s: float, good_T: np.ndarray | None, notes: Notes
) -> np.ndarray | None:
    if recipe.observed is None:
        return good_T
    inside_T = bins_inside(centers_T, bin_s, _observed(source, recipe))
    notes.drop("bins", "not observed", int((~inside_T).sum()))
    return inside_T if good_T is None else good_T & inside_T


def _observed(source: Source, recipe: Recipe) -> np.ndarray:
    """Return the merged stretches in which something was recorded, (n, 2) in s."""
    assert recipe.observed is not None
    starts, stops = source.times(recipe.observed.start), source.times(recipe.observed.stop)
    if len(starts) != len(stops):
        raise ValueError(
            f"{source.where(recipe.observed.start)}: has {len(starts)} times but {recipe.observed.stop!r} has "
            f"{len(stops)}"
        )
    return merge(np.stack([starts, stops], axis=1))


def _spikes_and_seconds(layout: Layout, bin_s: float) -> tuple[np.ndarray, float]:
    """Return the spikes of each unit of the file in all pieces, 0 for those not kept, and how long those are."""
    spikes_C = np.zeros(len(layout.kept_C))
    bins = 0
    for piece in layout.pieces:
        bins += piece.stop - piece.start
        for start, stop in blocks(piece.stop - piece.start, 8 * layout.signal_TC.shape[1]):
            part = layout.signal_TC[piece.start + start : piece.start + stop]
            spikes_C[layout.kept_C] += part.sum(axis=0, dtype=np.float64)
    return spikes_C, bins * bin_s
