"""What a run would read: the sessions of its data sets, or assumed ones where the data are not there yet."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from neurochorus.data_shards.manifest import SessionEntry
from neurochorus.data_shards.plan import SamplePlan
from neurochorus.data_shards.recording import unit_hash
from neurochorus.data_shards.remote import is_url
from neurochorus.data_shards.unit_columns import UnitColumns
from neurochorus.pretrain.config import RunConfig
from neurochorus.pretrain.training_data import TrainingData, refuse_long_forecast

ASSUMED_BIN_S = 0.01


@dataclass(frozen=True)
class Workload:
    """Sizes of what is trained on."""

    entries: Sequence[SessionEntry]
    longest_bins: int
    """Bins of the longest window."""
    mean_bins: float
    """Of a window, as sessions are drawn."""
    mean_units: float
    """Of a sample's session, as sessions are drawn."""
    plan: Callable[[str], SamplePlan] | None
    """Stage -> the order of its samples; None where the data are assumed."""

    @property
    def largest_session(self) -> int:
        return max(len(entry.units) for entry in self.entries)


@dataclass(frozen=True)
class Assumed:
    """Data that are made up of sessions of one size."""

    sessions: int = 100
    units: int = 200
    bins: int = 256

    @classmethod
    def parse(cls, text: str) -> "Assumed":
        """From `SESSIONSxUNITSxBINS`. Raises ValueError for anything else."""
        parts = text.split("x")
        if len(parts) != 3 or not all(part.isdigit() and int(part) > 0 for part in parts):
            raise ValueError(f"--assume {text!r}: expected SESSIONSxUNITSxBINS, such as 100x200x256")
        return cls(*map(int, parts))


def workload(config: RunConfig, assumed: Assumed | None) -> Workload:
    """Of the run's data sets if they are there, else as assumed.

    Raises ValueError for data that do not fit the run, and for missing ones where nothing is assumed.
    """
    missing = [path for path in config.data.paths if not (is_url(path) or Path(path).exists())]
    if missing and assumed is None:
        raise ValueError(
            f"data.path: {', '.join(missing)} does not exist: make it with launch/shard.py, or give --assume "
            "SESSIONSxUNITSxBINS (such as 100x200x256) for data that are still to come"
        )
    if missing and assumed is not None:
        return _assumed_workload(config, assumed)
    data = TrainingData.open(config)
    refuse_long_forecast(config, data)
    plan = data.plan(config, "dynamics")
    window = config.data.window_bins
    bins = {
        name: np.minimum(data.corpus.bins_of(name, "train"), np.iinfo(np.int64).max if window is None else window)
        for name in data.session_ids
    }
    units = {entry.session_id: len(entry.units) for entry in data.entries}
    return Workload(
        entries=data.entries,
        longest_bins=max(int(lengths.max()) for lengths in bins.values()),
        mean_bins=sum(share * float(bins[name].mean()) for name, share in plan.shares.items()),
        mean_units=sum(share * units[name] for name, share in plan.shares.items()),
        plan=lambda stage: data.plan(config, stage),
    )


def _assumed_workload(config: RunConfig, assumed: Assumed) -> Workload:
    ids = [f"u{number:04d}" for number in range(assumed.units)]
    entries = [
        SessionEntry(
            session_id=f"assumed_{number}",
            subject_id=f"assumed_{number}",
            modality="spikes",
            bin_s=ASSUMED_BIN_S,
            unit_hash=unit_hash(ids),
            units=UnitColumns({"unit_id": ids, "region": [""] * assumed.units}),
            covariates={},
            unit_mean=np.full(assumed.units, 0.1),
            unit_sd=np.full(assumed.units, 0.3),
            train_bins=1,
            provenance={},
        )
        for number in range(assumed.sessions)
    ]
    bins = assumed.bins if config.data.window_bins is None else min(assumed.bins, config.data.window_bins)
    return Workload(entries, bins, float(bins), float(assumed.units), None)
