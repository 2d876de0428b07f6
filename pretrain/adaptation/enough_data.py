"""How much the new sessions can tell, in standard errors, said where it is little."""

import math

import numpy as np

from neurochorus.data_shards.manifest import SessionEntry
from neurochorus.data_shards.windows import WindowTable
from neurochorus.pretrain.config import RunConfig
from neurochorus.pretrain.early_stopping import LEAST_WINDOWS
from neurochorus.pretrain.training_data import TrainingData
from neurochorus.pretrain.validation import count_windows

LEAST_TRIALS = 20
"""Windows to adapt on, below which a session is named."""
LEAST_SPIKES = 100
"""Spikes of the median unit in them, below which its rate is known to worse than 10 %."""


def windows_of(config: RunConfig, data: TrainingData) -> dict[str, int]:
    """New session -> windows of its train split that are used."""
    windows = data.plan(config, "autoencoder").windows
    return {session_id: windows[session_id] for session_id in data.session_ids}


def minutes_of(config: RunConfig, data: TrainingData) -> dict[str, float]:
    """New session -> minutes of its train split that are used."""
    bins = _used_bins(config, data)
    return {entry.session_id: bins[entry.session_id] * entry.bin_s / 60 for entry in data.entries}


def data_warnings(config: RunConfig, data: TrainingData) -> list[str]:
    """A line for each new session with little data, and for a valid split that can hardly tell better from worse."""
    windows, bins = windows_of(config, data), _used_bins(config, data)
    lines = [
        line
        for entry in data.entries
        if (line := _little(entry, windows[entry.session_id], bins[entry.session_id])) is not None
    ]
    valid = count_windows(config, data, "valid")
    if valid < LEAST_WINDOWS:
        spread = f"{1 / math.sqrt(valid):.0%} of the spread between windows" if valid else "not defined"
        lines.append(
            f"valid split of the new sessions: {valid} windows, fewer than {LEAST_WINDOWS}: the standard error of a "
            f"score over them is {spread}"
        )
    return lines


def _little(entry: SessionEntry, windows: int, bins: float) -> str | None:
    spikes = float(np.median(entry.unit_mean)) * bins
    scarce = entry.modality == "spikes" and spikes < LEAST_SPIKES
    if windows >= LEAST_TRIALS and not scarce:
        return None
    start = f"session {entry.session_id!r}: {windows} windows ({bins * entry.bin_s / 60:.1f} minutes) to adapt on: "
    if entry.modality == "continuous":
        return f"{start}a unit's mean is known to ± {1 / math.sqrt(windows):.0%} of its sd, if windows are independent"
    rate, error = (value / (bins * entry.bin_s) for value in (spikes, math.sqrt(spikes)))
    if not spikes:
        return f"{start}its median unit never fires in them"
    return f"{start}the rate of its median unit, {rate:.2g} spikes/s, is known to ± {error:.2g} ({error / rate:.0%})"


def _used_bins(config: RunConfig, data: TrainingData) -> dict[str, float]:
    table, used = WindowTable(data.corpus, "train", config.data.window_bins), windows_of(config, data)
    return {e.session_id: e.train_bins * used[e.session_id] / table.count(e.session_id) for e in data.entries}
