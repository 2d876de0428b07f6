"""One session as the writer takes it: a tar of its samples, and where each lies in it.

Importing makes parts, in any order and in any process; assembling copies them one after the other into shards. A part
is there once its second file is, which is written last, so that a killed import leaves whole parts and nothing else
that counts.
"""

import io
import json
import math
import os
import zlib
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from webdataset.writer import TarWriter

from neurochorus.data_shards.index import COLUMN_DTYPES
from neurochorus.data_shards.manifest import SessionEntry
from neurochorus.data_shards.recording import SPLITS, Recording, Segment, unit_hash
from neurochorus.data_shards.unit_columns import UnitColumns

TAR_BLOCK = 512  # a tar member is one header block and its data, padded to whole blocks (POSIX ustar)
MEMBERS = ("signal", "covariates", "meta")
MOMENT_VALUES = 2**22
"Values of a signal whose moments are taken at once; each needs 16 bytes then."


@dataclass(frozen=True)
class SessionPart:
    """`starts` (samples + 1,): first byte of each sample in the tar, and the end of the last.

    `columns` are those of Index without shard and session, their offsets counted from the start of this tar.
    """

    tar: Path
    entry: SessionEntry
    starts: np.ndarray
    columns: dict[str, np.ndarray]

    def __len__(self) -> int:
        return len(self.starts) - 1

    def remove(self) -> None:
        """Delete both files."""
        _columns_file(self.tar).unlink()
        self.tar.unlink()


def write_part(recording: Recording, tar: Path, sample_bins: int) -> SessionPart:
    """Write a recording as the part `tar` and return it; ValueError when it cannot become a session."""
    entry = session_entry(recording)
    starts, rows = array("q", [0]), array("q")
    names = list(COLUMN_DTYPES)[2:]
    # a name of our own: a process that outlived a killed import may be writing the same part
    temporary = tar.with_suffix(f".{os.getpid()}.tar")
    with temporary.open("wb") as file:
        # fixed owner and time: the same recordings must give the same bytes
        stream: Any = file  # webdataset asks for a BinaryIO but only ever writes
        writer = TarWriter(stream, user="neurochorus", group="neurochorus", mtime=0, encoder=False)
        for number, (segment_number, start, stop) in enumerate(samples_of(recording, sample_bins)):
            split = SPLITS.index(recording.segments[segment_number].split)
            row = {"split": split, "segment": segment_number, "start": start, "bins": stop - start}
            members = encode_sample(recording, segment_number, start, stop)
            places, end = member_places(members, starts[-1])
            rows.extend((row | places)[name] for name in names)
            starts.append(end)
            writer.write({"__key__": f"{recording.session_id}-{number:06d}", **members})
        writer.close()
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(tar)
    table = np.array(rows, dtype=np.int64).reshape(-1, len(names))
    columns = {name: table[:, place].astype(COLUMN_DTYPES[name]) for place, name in enumerate(names)}
    part = SessionPart(tar, entry, np.array(starts, dtype=np.int64), columns)
    _save_columns(part)
    return part


def read_part(tar: Path) -> SessionPart | None:
    """Return the part `tar`, or None when it is not there or was not finished."""
    if not _columns_file(tar).is_file():
        return None
    with np.load(_columns_file(tar), allow_pickle=False) as arrays:
        columns = dict(arrays)
    starts, entry = columns.pop("starts"), json.loads(columns.pop("entry").tobytes())
    if not tar.is_file() or tar.stat().st_size < starts[-1]:
        return None
    entry["units"] = UnitColumns(entry["units"])
    return SessionPart(tar, SessionEntry(**entry), starts, columns)


def _save_columns(part: SessionPart) -> None:
    entry = np.frombuffer(json.dumps(part.entry.to_json(), allow_nan=False).encode(), dtype=np.uint8)
    temporary = part.tar.with_suffix(f".{os.getpid()}.npz")
    with temporary.open("wb") as file:
        np.savez(file, allow_pickle=False, starts=part.starts, entry=entry, **part.columns)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(_columns_file(part.tar))


def _columns_file(tar: Path) -> Path:
    return tar.with_suffix(".npz")


def member_places(members: dict[str, bytes], start: int) -> tuple[dict[str, int], int]:
    """Return offset, bytes and crc32 of the members of a sample whose first byte is `start`, and where it ends."""
    places = {f"{name}_{what}": 0 for name in MEMBERS for what in ("offset", "bytes", "crc32")}
    for file_name in sorted(members):  # the order in which TarWriter writes them
        name, data = file_name.split(".")[0], members[file_name]
        places[f"{name}_offset"] = start + TAR_BLOCK
        places[f"{name}_bytes"] = len(data)
        places[f"{name}_crc32"] = zlib.crc32(data)
        start += TAR_BLOCK + math.ceil(len(data) / TAR_BLOCK) * TAR_BLOCK
    return places, start


def session_entry(recording: Recording) -> SessionEntry:
    """Return the manifest's entry of a recording, with per-unit mean and sd per bin over its train segments."""
    segments = train_segments(recording)
    mean_C, sd_C, bins = moments(recording.signal_TC, segments)
    return SessionEntry(
        session_id=recording.session_id,
        subject_id=recording.subject_id,
        modality=recording.modality,
        bin_s=float(recording.bin_s),
        unit_hash=unit_hash(recording.unit_ids),
        units=UnitColumns.from_rows(
            [{"unit_id": unit.unit_id, "region": unit.region, **unit.columns} for unit in recording.units]
        ),
        covariates={covariate: values.shape[1] for covariate, values in sorted(recording.covariates.items())},
        unit_mean=mean_C,
        unit_sd=sd_C,
        train_bins=bins,
        provenance=recording.provenance,
    )


def train_segments(recording: Recording) -> list[Segment]:
    """Return the segments of the train split; none is a ValueError."""
    segments = [segment for segment in recording.segments if segment.split == "train"]
    if not segments:
        raise ValueError(
            f"session {recording.session_id!r}: no segment is in the train split ({len(recording.segments)} in all, "
            f"bins of {recording.bin_s:g} s): use more trials or blocks, smaller bins, or other split fractions"
        )
    return segments


def moments(signal_TC: np.ndarray, segments: list[Segment]) -> tuple[np.ndarray, np.ndarray, int]:
    """Return mean (C,), sd (C,) and number of bins of segments of a signal, in float64 and in bounded memory."""
    step = max(MOMENT_VALUES // signal_TC.shape[1], 1)
    pieces = [
        slice(start, min(start + step, segment.stop))
        for segment in segments
        for start in range(segment.start, segment.stop, step)
    ]
    bins = sum(piece.stop - piece.start for piece in pieces)
    mean_C = np.sum([signal_TC[piece].sum(axis=0, dtype=np.float64) for piece in pieces], axis=0) / bins
    variance_C = np.sum([((signal_TC[piece] - mean_C) ** 2).sum(axis=0) for piece in pieces], axis=0) / bins
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
    members = {"signal.npy": npy_bytes(recording.signal_TC[start:stop])}
    if recording.covariates:
        columns = [recording.covariates[covariate][start:stop] for covariate in sorted(recording.covariates)]
        members["covariates.npy"] = npy_bytes(np.concatenate(columns, axis=1))
    members["meta.json"] = json.dumps(meta, sort_keys=True, allow_nan=False).encode()
    return members


def npy_bytes(array: np.ndarray) -> bytes:
    """Return an array as the bytes of a version 1.0 .npy file in C order."""
    stream = io.BytesIO()
    np.lib.format.write_array(stream, np.ascontiguousarray(array), version=(1, 0), allow_pickle=False)
    return stream.getvalue()
