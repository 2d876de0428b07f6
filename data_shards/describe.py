"""What a data set holds, in numbers."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from neurochorus.data_shards.files import data_files, whole_or_raise
from neurochorus.data_shards.index import Index
from neurochorus.data_shards.manifest import Manifest, SessionEntry
from neurochorus.data_shards.recording import SPLITS


@dataclass(frozen=True)
class SessionSummary:
    """One session; level_C is each unit's mean on the train split, in spikes/s or the continuous signal's own unit."""

    session_id: str
    subject_id: str
    modality: str
    bin_s: float
    units: int
    silent_units: int
    regions: int
    hours: float
    samples: dict[str, int]
    level_C: np.ndarray
    covariates: dict[str, int]


@dataclass(frozen=True)
class DatasetSummary:
    name: str
    manifest_hash: str
    sessions: list[SessionSummary]
    entries: list[SessionEntry]
    splits: dict[str, dict[str, int]]
    longest_bins: int
    shards: int
    shard_bytes: int

    @property
    def subjects(self) -> dict[str, list[SessionSummary]]:
        """Subject -> its sessions, in the order of the data set."""
        found: dict[str, list[SessionSummary]] = {}
        for session in self.sessions:
            found.setdefault(session.subject_id, []).append(session)
        return found


def summarise(path: str | Path) -> DatasetSummary:
    """Return the summary of a data set, a directory or a URL; reads manifest and index only.

    Raises ValueError when either is missing, damaged or of another data set, or when a shard is missing or has
    another size than the manifest says.
    """
    files = data_files(path)
    manifest = files.manifest()
    index = files.index(manifest)
    whole_or_raise(files, manifest)
    return DatasetSummary(
        name=manifest.name,
        manifest_hash=manifest.hash(),
        sessions=[_summarise_session(manifest, index, number) for number in range(len(manifest.sessions))],
        entries=manifest.sessions,
        splits={split: manifest.splits.get(split, {"samples": 0, "bins": 0}) for split in SPLITS},
        longest_bins=int(index.bins.max(initial=0)),
        shards=len(manifest.shards),
        shard_bytes=sum(shard.bytes for shard in manifest.shards),
    )


def _summarise_session(manifest: Manifest, index: Index, number: int) -> SessionSummary:
    entry = manifest.sessions[number]
    rows = index.session == number
    level_C = np.array(entry.unit_mean)
    return SessionSummary(
        session_id=entry.session_id,
        subject_id=entry.subject_id,
        modality=entry.modality,
        bin_s=entry.bin_s,
        units=len(entry.units),
        silent_units=int((np.array(entry.unit_sd) == 0).sum()),
        regions=len(set(map(str, entry.units.columns.get("region", []))) - {""}),
        hours=float(index.bins[rows].sum()) * entry.bin_s / 3600,
        samples={split: int((index.split[rows] == code).sum()) for code, split in enumerate(SPLITS)},
        level_C=level_C / entry.bin_s if entry.modality == "spikes" else level_C,
        covariates=entry.covariates,
    )
