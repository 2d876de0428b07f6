"""Pieces of a recording become segments: split into train, valid and test, and broken where bins are left out."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from neurochorus.data_shards.importers.grid import runs
from neurochorus.data_shards.importers.layouts import Layout, Piece
from neurochorus.data_shards.importers.notes import Notes
from neurochorus.data_shards.importers.source import Source
from neurochorus.data_shards.importers.trials import trial_key
from neurochorus.data_shards.recipe import Recipe
from neurochorus.data_shards.recording import SPLITS, Segment
from neurochorus.data_shards.splits import block_bounds, random_splits


def make_segments(source: Source, recipe: Recipe, layout: Layout, bin_s: float, notes: Notes) -> list[Segment]:
    """Return the segments of a recording, in order; ValueError where labels or splits do not fit its trials."""
    if not recipe.has_trials:
        return _blocks(recipe, layout)
    labels = {name: _by_trial(source, recipe, item.key, layout.trials) for name, item in recipe.labels.items()}
    segments = []
    for piece, split in zip(layout.pieces, _trial_splits(source, recipe, layout, bin_s, notes)):
        assert piece.trial is not None
        for start, stop in _unbroken(piece, layout):
            # a NaN stands for missing: the label is left out (NaN differs from itself)
            values: dict[str, Any] = {
                name: column[piece.trial]
                for name, column in labels.items()
                if column[piece.trial] == column[piece.trial]
            }
            if layout.centers_T is not None:
                values.setdefault("first_bin_s", float(layout.centers_T[start]))
            segments.append(Segment(start=start, stop=stop, split=split, labels=values))
    return segments


def _trial_splits(source: Source, recipe: Recipe, layout: Layout, bin_s: float, notes: Notes) -> list[str]:
    if layout.splits:
        return [split for split, trials in layout.splits.items() for _ in range(trials)]
    if recipe.split.key is None:
        group_N = _overlapping(layout, bin_s)
        groups = int(group_N.max(initial=-1)) + 1
        if groups < len(group_N):
            notes.say(
                f"{len(group_N) - groups} trials begin before another has ended: those that overlap have one split"
            )
        splits = random_splits(groups, recipe.split)
        return [splits[group] for group in group_N]
    values = _by_trial(source, recipe, recipe.split.key, layout.trials)
    odd = sorted({str(value) for value in values} - set(SPLITS))
    if odd:
        raise ValueError(f"{source.where(recipe.split.key)}: holds {odd}; expected {', '.join(SPLITS)}")
    return [str(values[piece.trial]) for piece in layout.pieces]


def _overlapping(layout: Layout, bin_s: float) -> np.ndarray:
    """Return a number a piece, the same for trials that share bins directly or by way of others; 0, 1, ... of others.

    Trials that do not overlap are numbered in the order of the pieces.
    """
    count = len(layout.pieces)
    if layout.centers_T is None or not count:
        return np.arange(count)
    begins = layout.centers_T[[piece.start for piece in layout.pieces]]
    ends = layout.centers_T[[piece.stop - 1 for piece in layout.pieces]]
    order = np.argsort(begins, kind="stable")
    reached = np.maximum.accumulate(ends[order])
    apart = np.concatenate([[True], begins[order][1:] - reached[:-1] > 0.99 * bin_s])
    chain_N = np.empty(count, dtype=np.int64)
    chain_N[order] = np.cumsum(apart) - 1
    _, first, chain_N = np.unique(chain_N, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[chain_N]


def _by_trial(source: Source, recipe: Recipe, key: str, trials: int) -> np.ndarray:
    key = trial_key(source, recipe.trials, key)
    values = source.array(key, ndim=1)
    if len(values) != trials or values.dtype.kind not in "Uiufb":
        raise ValueError(
            f"{source.where(key)}: is {values.dtype} of length {len(values)}; "
            f"expected text or numbers for {trials} trials"
        )
    return values


def _blocks(recipe: Recipe, layout: Layout) -> list[Segment]:
    """Return the blocks of a long recording; where a piece or good bins end within one, its parts share its split."""
    parts = [_parts(start, stop, layout) for start, stop in block_bounds(len(layout.signal_TC), recipe.split)]
    parts = [spans for spans in parts if spans]
    splits = random_splits(len(parts), recipe.split)
    return [
        Segment(start=start, stop=stop, split=split) for spans, split in zip(parts, splits) for start, stop in spans
    ]


def _parts(start: int, stop: int, layout: Layout) -> list[tuple[int, int]]:
    """Return the unbroken spans within bins [start, stop)."""
    pieces = [Piece(max(start, piece.start), min(stop, piece.stop)) for piece in layout.pieces]
    return [span for piece in pieces if piece.stop > piece.start for span in _unbroken(piece, layout)]


def _unbroken(piece: Piece, layout: Layout) -> Iterator[tuple[int, int]]:
    if layout.good_T is None:
        yield piece.start, piece.stop
        return
    for start, stop in runs(layout.good_T[piece.start : piece.stop]).tolist():
        yield piece.start + start, piece.start + stop
