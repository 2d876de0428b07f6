"""The test windows of a BrainWideBench recording, and what a model predicts of them.

Recordings are the HDF5 files of the build `selected_units` (temporaldata `Data.to_hdf5`: groups of arrays, `domain`
with `start` and `end`, single values as attributes). Windows of 1 s begin at every bin of 20 ms of
task_aligned_intervals/domain where it meets ts2_test_domain (ibl-bwb `ts2/ts2_dataset.py` `get_sampling_intervals`),
and the last of an interval ends with it (torch_brain `SequentialFixedWindowSampler`, whose float64 sums are repeated
here since windows are matched by equal starts). Bins count from the start of a window (torch_brain `bin_spikes`).
N windows, T bins, C units.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from neurochorus.data_shards.batch import Batch
from neurochorus.data_shards.importers.hdf5 import Hdf5
from neurochorus.models import NeuralModel
from neurochorus.pretrain.submissions.brain_wide_bench import (
    BIN_S,
    FORECAST_BINS,
    UNIT_FILTERING,
    WINDOW_BINS,
    Predictions,
    Task,
)
from neurochorus.pretrain.submissions.unread_units import smoothed_rates

WINDOW_S = 1.0
LONGEST_CONTEXT_S = 20.0
LEAST_RATE = 1e-6
WINDOWS_AT_ONCE = 128


@dataclass(frozen=True)
class Recording:
    """What the task suite reads of a recording."""

    recording_id: str
    dataset_version: str
    unit_ids: list[str]
    held_out_C: np.ndarray
    "Units that co-smoothing scores on the test split."
    times: np.ndarray
    "Of all spikes, seconds, sorted."
    units: np.ndarray
    "Number of the unit of each spike."
    intervals: np.ndarray
    "(intervals, 2): start and end of the test split where trials are."
    origin_s: float

    def window_starts(self) -> np.ndarray:
        """Start of every test window, float64. Raises ValueError for an interval shorter than a window."""
        made = []
        for start, end in self.intervals.tolist():
            if end - start < WINDOW_S:
                raise ValueError(
                    f"recording {self.recording_id!r}: its interval {start:g} to {end:g} s is shorter than a window of "
                    f"{WINDOW_S:g} s; the benchmark refuses it too: is this a file of the benchmark?"
                )
            starts = torch.arange(start, end, BIN_S, dtype=torch.float64)
            starts = starts[starts + WINDOW_S <= end].numpy()
            made.append(starts)
            if starts[-1] + WINDOW_S < end:
                made.append(np.array([end - WINDOW_S]))
        return np.concatenate(made)

    def counts(self, starts_N: np.ndarray, bins: int) -> np.ndarray:
        """Counts (N, bins, C) from each start on."""
        counts_NTC = np.zeros((len(starts_N), bins, len(self.unit_ids)), dtype=np.uint8)
        firsts = np.searchsorted(self.times, starts_N)
        lasts = np.searchsorted(self.times, starts_N + bins * BIN_S)
        for counts_TC, start, first, last in zip(counts_NTC, starts_N, firsts, lasts, strict=True):
            bin_of = np.floor((self.times[first:last] - start) / BIN_S).astype(int)
            inside = bin_of < bins  # rounding at the end
            np.add.at(counts_TC, (bin_of[inside], self.units[first:last][inside]), 1)
        return counts_NTC


def read_recording(path: Path) -> Recording:
    """Read a recording of the benchmark. Raises ValueError naming the file and key for what is missing or other."""
    source = Hdf5(path)
    try:
        filtering = source.text("brainset@unit_filtering")
        if filtering != UNIT_FILTERING:
            raise ValueError(f"{path}: is of the build {filtering!r}; this suite takes {UNIT_FILTERING!r}")
        session_id = source.text("session@id")
        times, units = source.array("spikes/timestamps", 1), source.array("spikes/unit_index", 1).astype(int)
        order = np.argsort(times, kind="stable")
        trials, test = (
            np.stack([source.array(f"{key}/start", 1), source.array(f"{key}/end", 1)], axis=1)
            for key in ("task_aligned_intervals/domain", "ts2_test_domain")
        )
        return Recording(
            recording_id=session_id,
            dataset_version=source.text("brainset@derived_version"),
            unit_ids=[str(one) for one in source.array("units/id", 1)],
            held_out_C=source.array("units/ts2_co_smoothing_is_held_out_test", 1).astype(bool),
            times=times[order],
            units=units[order],
            intervals=overlaps(trials, test),
            origin_s=float(source.array("@absolute_start")) if source.has("@absolute_start") else 0.0,
        )
    finally:
        source.close()


def overlaps(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Where intervals of two sorted lists (n, 2) meet, as (m, 2), ordered by the second and then the first.

    >>> overlaps(np.array([[0.0, 2.0], [3.0, 5.0]]), np.array([[1.0, 4.0]])).tolist()
    [[1.0, 2.0], [3.0, 4.0]]
    """
    pairs = [(max(a, c), min(b, d)) for c, d in second.tolist() for a, b in first.tolist()]
    return np.array([pair for pair in pairs if pair[0] < pair[1]]).reshape(-1, 2)


def predict(
    model: NeuralModel,
    recording: Recording,
    task: Task,
    *,
    session_id: str,
    samples: int,
    seed: int,
    context_s: float = WINDOW_S,
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> Predictions:
    """What `model` predicts of all test windows.

    `context_s`: how much is read, up to the end of the window of 1 s (less where the recording begins later).
    Forecasts are means over `samples` rollouts. Raises ValueError for a session with other bins, units that the model
    lacks, and a context outside 1 to 20 s.
    """
    if not WINDOW_S <= context_s <= LONGEST_CONTEXT_S:
        raise ValueError(f"context of {context_s:g} s: expected {WINDOW_S:g} to {LONGEST_CONTEXT_S:g}")
    bin_s = model.registry.session(session_id).bin_s
    if abs(bin_s - BIN_S) > 1e-9:
        raise ValueError(f"session {session_id!r} has bins of {bin_s:g} s; the benchmark scores bins of {BIN_S:g} s")
    columns = model_units(model, session_id, recording)
    starts_N, parts = recording.window_starts(), []
    for chunk, before in _chunks(starts_N, round((context_s - WINDOW_S) / BIN_S)):
        counts_NTC = recording.counts(starts_N[chunk] - before * BIN_S, before + WINDOW_BINS)
        names = [f"{session_id}-{start!r}" for start in starts_N[chunk].tolist()]
        parts.append(_log_rates(model, recording, task, counts_NTC, columns, names, session_id, samples, seed))
        progress(chunk.stop, len(starts_N))
    scored = [
        f"{recording.recording_id}/{name}"
        for name, held_out in zip(recording.unit_ids, recording.held_out_C, strict=True)
        if task == "forecasting" or held_out
    ]
    return Predictions(np.concatenate(parts), starts_N + recording.origin_s, scored)


def model_units(model: NeuralModel, session_id: str, recording: Recording) -> list[str]:
    """The model's unit id for each unit of the recording: the same, or with `_` for what no unit id may hold.

    Raises ValueError for units that the model lacks.
    """
    known = set(model.registry.session(session_id).unit_ids)
    made, lacking = [], []
    for name in recording.unit_ids:
        own = name if name in known else re.sub(r"[^A-Za-z0-9_-]", "_", name)
        (made if own in known else lacking).append(own)
    if lacking:
        raise ValueError(
            f"session {session_id!r}: the model lacks {len(lacking)} of {len(recording.unit_ids)} units "
            f"({', '.join(lacking[:4])}), and all of them are scored: write its shards without min_rate or where"
        )
    return made


def _chunks(starts_N: np.ndarray, extra_bins: int) -> Iterator[tuple[slice, int]]:
    """Slices of windows, and how many bins before the window can be read of all of them."""
    for first in range(0, len(starts_N), WINDOWS_AT_ONCE):
        chunk = slice(first, min(first + WINDOWS_AT_ONCE, len(starts_N)))
        yield chunk, max(0, min(extra_bins, int(starts_N[chunk].min() / BIN_S)))


def _log_rates(
    model: NeuralModel,
    recording: Recording,
    task: Task,
    counts_NTC: np.ndarray,
    columns: list[str],
    names: list[str],
    session_id: str,
    samples: int,
    seed: int,
) -> np.ndarray:
    def batch(counts: np.ndarray) -> Batch:
        made = model.context(session_id, counts, columns)
        made.sample_ids = names
        return made.to(model.device)

    if task == "forecasting":
        rates = model.forecast(batch(counts_NTC[:, :-FORECAST_BINS]), FORECAST_BINS, samples, seed)[0]
    else:
        seen_NTC = np.where(recording.held_out_C, 0, counts_NTC)
        rates = smoothed_rates(model, batch(seen_NTC), recording.held_out_C)
        rates = rates[:, -WINDOW_BINS:, torch.from_numpy(recording.held_out_C)]
    return np.log(np.maximum(rates.float().cpu().numpy(), LEAST_RATE)).astype(np.float16)
