"""Recordings to a data set directory: plain webdataset tars, index.npz and, last, manifest.json.

Everything is written into a temporary directory beside the target and renamed at the end, so that a crash leaves
nothing that looks whole. The same recordings give the same bytes.
"""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from neurochorus.data_shards.index import COLUMN_DTYPES, INDEX_FILE, Index
from neurochorus.data_shards.manifest import MANIFEST_FILE, Manifest
from neurochorus.data_shards.recording import SPLITS, Recording
from neurochorus.data_shards.session_part import SessionPart, write_part
from neurochorus.data_shards.shard_files import ShardSequence
from neurochorus.data_shards.staging import staged_directory

SHARD_BYTES = 64 * 2**20
"Size at which a shard is closed."

Progress = Callable[[Recording, int], None]


def write_dataset(
    recordings: Iterable[Recording],
    out: str | Path,
    *,
    name: str,
    sample_bins: int,
    provenance: dict[str, Any] | None = None,
    shard_bytes: int = SHARD_BYTES,
    progress: Progress | None = None,
) -> Manifest:
    """Write `recordings` as the data set directory `out` and return its manifest.

    Segments longer than `sample_bins` are cut into samples of that many bins, the last one shorter. A shard is closed
    once it holds `shard_bytes` of data. `progress(recording, samples)` is called after each recording. Raises
    ValueError for bad recordings or an `out` that exists, OSError naming `out` when the disk refuses; both leave
    nothing behind.
    """
    if sample_bins < 1 or shard_bytes < 1:
        raise ValueError(f"sample_bins ({sample_bins}) and shard_bytes ({shard_bytes}) must be at least 1")
    with staged_directory(Path(out)) as staging:
        empty = Manifest(name=name, sessions=[], shards=[], splits={}, provenance=provenance or {})
        assembly = Assembly(staging, shard_bytes, empty)
        for recording in recordings:
            if recording.session_id in assembly.session_ids:
                raise ValueError(f"two recordings have the session id {recording.session_id!r}: make the ids unique")
            part = write_part(recording, staging / "part.tar", sample_bins)
            assembly.add(part)
            part.remove()
            if progress is not None:
                progress(recording, len(part))
        if not assembly.session_ids:
            raise ValueError("there is no recording to write: check the recipe's files and the source")
        return assembly.finish()


class Assembly:
    """Makes the files of a data set in `directory` from the parts of its sessions, in the order of `add`.

    With a data set to begin with, `before` and `rows`, only the files of what is new are made there: shards with new
    numbers, and an index and a manifest of all.
    """

    def __init__(self, directory: Path, shard_bytes: int, before: Manifest, rows: Index | None = None):
        self.session_ids = {entry.session_id for entry in before.sessions}
        self._directory = directory
        self._before = before
        self._entries = list(before.sessions)
        self._columns = [] if rows is None else [{name: getattr(rows, name) for name in COLUMN_DTYPES}]
        self._shards = ShardSequence(directory, shard_bytes, first=len(before.shards))

    def add(self, part: SessionPart) -> None:
        """Write one more session; its id must be new."""
        assert part.entry.session_id not in self.session_ids
        columns = self._shards.add(part)
        columns["session"] = np.full(len(part), len(self._entries), dtype=COLUMN_DTYPES["session"])
        self._columns.append(columns)
        self._entries.append(part.entry)
        self.session_ids.add(part.entry.session_id)

    def finish(self, provenance: dict[str, Any] | None = None) -> Manifest:
        """Write the last shard, the index and the manifest, which is returned; `provenance` replaces that of before."""
        self._shards.close()
        columns = {name: np.concatenate([rows[name] for rows in self._columns]) for name in COLUMN_DTYPES}
        manifest = Manifest(
            name=self._before.name,
            sessions=self._entries,
            shards=self._before.shards + self._shards.entries,
            splits=split_totals(columns),
            provenance=self._before.provenance if provenance is None else provenance,
        )
        Index(manifest_hash=manifest.hash(), **columns).save(self._directory / INDEX_FILE)
        manifest.save(self._directory / MANIFEST_FILE)
        return manifest


def split_totals(columns: dict[str, np.ndarray]) -> dict[str, dict[str, int]]:
    """Return samples and bins of every split."""
    inside = {split: columns["split"] == code for code, split in enumerate(SPLITS)}
    return {
        split: {"samples": int(rows.sum()), "bins": int(columns["bins"][rows].sum(dtype=np.int64))}
        for split, rows in inside.items()
    }
