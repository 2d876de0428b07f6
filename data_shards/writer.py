"""Recordings to a data set directory: plain webdataset tars, index.npz and, last, manifest.json.

Everything is written into a temporary directory beside the target and renamed at the end, so that a crash leaves
nothing that looks whole. The same recordings give the same bytes.
"""

import hashlib
import io
import json
import math
import os
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from webdataset.writer import TarWriter

from neurochorus.data_shards.index import INDEX_FILE, Index
from neurochorus.data_shards.manifest import MANIFEST_FILE, Manifest, SessionEntry, ShardEntry
from neurochorus.data_shards.recording import SPLITS, Recording, unit_hash
from neurochorus.data_shards.staging import staged_directory
from neurochorus.data_shards.unit_table import UnitTable

TAR_BLOCK = 512  # a tar member is one header block and its data, padded to whole blocks (POSIX ustar)
MEMBERS = ("signal", "covariates", "meta")

Progress = Callable[[Recording, int], None]


def write_dataset(
    recordings: Iterable[Recording],
    out: str | Path,
    *,
    name: str,
    sample_bins: int,
    provenance: dict[str, Any] | None = None,
    shard_bytes: int = 64 * 2**20,
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
        shards = ShardSequence(staging, shard_bytes)
        sessions: list[SessionEntry] = []
        for recording in recordings:
            if recording.session_id in {entry.session_id for entry in sessions}:
                raise ValueError(f"two recordings have the session id {recording.session_id!r}: make the ids unique")
            sessions.append(session_entry(recording))
            before = len(shards.rows)
            for number, (segment_number, start, stop) in enumerate(samples_of(recording, sample_bins)):
                segment = recording.segments[segment_number]
                members = encode_sample(recording, segment_number, start, stop)
                row = {"session": len(sessions) - 1, "segment": segment_number, "start": start, "bins": stop - start}
                shards.add(
                    f"{recording.session_id}-{number:06d}", members, row | {"split": SPLITS.index(segment.split)}
                )
            if progress is not None:
                progress(recording, len(shards.rows) - before)
        if not sessions:
            raise ValueError("there is no recording to write: check the recipe's files and the source")
        shards.close()
        manifest = Manifest(
            name=name,
            sessions=sessions,
            shards=shards.entries,
            splits=split_totals(shards.rows),
            provenance=provenance or {},
        )
        Index.from_rows(shards.rows, manifest.hash()).save(staging / INDEX_FILE)
        manifest.save(staging / MANIFEST_FILE)
    return manifest


def split_totals(rows: list[dict[str, int]]) -> dict[str, dict[str, int]]:
    """Return samples and bins of every split."""
    totals = {split: {"samples": 0, "bins": 0} for split in SPLITS}
    for row in rows:
        totals[SPLITS[row["split"]]]["samples"] += 1
        totals[SPLITS[row["split"]]]["bins"] += row["bins"]
    return totals


def session_entry(recording: Recording) -> SessionEntry:
    """Return the manifest's entry of a recording, with per-unit mean and sd per bin over its train segments."""
    segments = [segment for segment in recording.segments if segment.split == "train"]
    if not segments:
        raise ValueError(
            f"session {recording.session_id!r}: no segment is in the train split ({len(recording.segments)} in all): "
            "use more trials or blocks, or other split fractions"
        )
    mean_C, sd_C, bins = moments([recording.signal_TC[segment.start : segment.stop] for segment in segments])
    return SessionEntry(
        session_id=recording.session_id,
        subject_id=recording.subject_id,
        modality=recording.modality,
        bin_s=float(recording.bin_s),
        unit_hash=unit_hash(recording.unit_ids),
        units=UnitTable.from_rows(
            [{"unit_id": unit.unit_id, "region": unit.region, **unit.columns} for unit in recording.units]
        ),
        covariates={covariate: values.shape[1] for covariate, values in sorted(recording.covariates.items())},
        unit_mean=mean_C,
        unit_sd=sd_C,
        train_bins=bins,
        provenance=recording.provenance,
    )


def moments(pieces: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray, int]:
    """Return mean (C,), sd (C,) and number of bins of pieces (T, C), in float64 and without joining them."""
    bins = sum(len(piece) for piece in pieces)
    mean_C = np.sum([piece.sum(axis=0, dtype=np.float64) for piece in pieces], axis=0) / bins
    variance_C = np.sum([((piece - mean_C) ** 2).sum(axis=0) for piece in pieces], axis=0) / bins
    return mean_C, np.sqrt(variance_C), bins


def samples_of(recording: Recording, sample_bins: int) -> Iterator[tuple[int, int, int]]:
    """Yield (segment number, start, stop) of every sample, in the order of the recording."""
    for number, segment in enumerate(recording.segments):
        for start in range(segment.start, segment.stop, sample_bins):
            yield number, start, min(start + sample_bins, segment.stop)


def encode_sample(recording: Recording, number: int, start: int, stop: int) -> dict[str, bytes]:
    """Return one sample of segment `number`: signal.npy (T, C), covariates.npy (T, K) if there are any, meta.json."""
    segment = recording.segments[number]
    meta = {
        "session_id": recording.session_id,
        "subject_id": recording.subject_id,
        "split": segment.split,
        "segment": number,
        "start": start,
        "bins": stop - start,
        "bin_s": float(recording.bin_s),
        "labels": segment.labels,
    }
    members = {"signal": npy_bytes(recording.signal_TC[start:stop])}
    if recording.covariates:
        columns = [recording.covariates[covariate][start:stop] for covariate in sorted(recording.covariates)]
        members["covariates"] = npy_bytes(np.concatenate(columns, axis=1))
    members["meta"] = json.dumps(meta, sort_keys=True, allow_nan=False).encode()
    return members


def npy_bytes(array: np.ndarray) -> bytes:
    """Return an array as the bytes of a version 1.0 .npy file in C order."""
    stream = io.BytesIO()
    np.lib.format.write_array(stream, np.ascontiguousarray(array), version=(1, 0), allow_pickle=False)
    return stream.getvalue()


class ShardSequence:
    """Writes shard-000000.tar, shard-000001.tar, ...; `entries` and `rows` tell what went where."""

    def __init__(self, directory: Path, shard_bytes: int):
        self.entries: list[ShardEntry] = []
        self.rows: list[dict[str, int]] = []
        self._directory = directory
        self._shard_bytes = shard_bytes
        self._file: HashingFile | None = None
        self._tar: Any = None
        self._offset = 0
        self._samples = 0

    def add(self, key: str, members: dict[str, bytes], row: dict[str, int]) -> None:
        """Write one sample; `row` holds the index columns that do not depend on where it lands."""
        if self._file is not None and self._offset >= self._shard_bytes:
            self.close()
        if self._file is None:
            self._open()
        row = row | {"shard": len(self.entries)}
        names = {f"{member}.{'json' if member == 'meta' else 'npy'}": member for member in members}
        for member in MEMBERS:
            row |= {f"{member}_offset": 0, f"{member}_bytes": 0, f"{member}_crc32": 0}
        for file_name in sorted(names):  # the order in which TarWriter writes them
            member, data = names[file_name], members[names[file_name]]
            row[f"{member}_offset"] = self._offset + TAR_BLOCK
            row[f"{member}_bytes"] = len(data)
            row[f"{member}_crc32"] = zlib.crc32(data)
            self._offset += TAR_BLOCK + math.ceil(len(data) / TAR_BLOCK) * TAR_BLOCK
        self._tar.write({"__key__": key, **{file_name: members[member] for file_name, member in names.items()}})
        self.rows.append(row)
        self._samples += 1

    def close(self) -> None:
        """Finish the shard that is open, if one is, and put it on disk for good."""
        if self._file is None:
            return
        self._tar.close()
        entry = self._file.finish()
        self.entries.append(ShardEntry(file=entry[0], samples=self._samples, bytes=entry[1], sha256=entry[2]))
        self._file = None

    def _open(self) -> None:
        self._file = HashingFile(self._directory / f"shard-{len(self.entries):06d}.tar")
        # fixed owner and time: the same recordings must give the same bytes
        stream: Any = self._file  # webdataset asks for a BinaryIO but only ever writes
        self._tar = TarWriter(stream, user="neurochorus", group="neurochorus", mtime=0, encoder=False)
        self._offset = 0
        self._samples = 0


class HashingFile:
    """A file to write to that knows the sha256 of what was written."""

    def __init__(self, path: Path):
        self._path = path
        self._file: BinaryIO = path.open("wb")
        self._hash = hashlib.sha256()
        self._bytes = 0

    def write(self, data: bytes) -> int:
        self._hash.update(data)
        self._bytes += len(data)
        return self._file.write(data)

    def finish(self) -> tuple[str, int, str]:
        """Force the file to disk and return its name, its bytes and its sha256."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        return self._path.name, self._bytes, self._hash.hexdigest()
