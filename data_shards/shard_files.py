"""Plain webdataset tars, filled with the samples of one session after the other."""

import hashlib
import os
from pathlib import Path
from typing import BinaryIO

import numpy as np

from neurochorus.data_shards.manifest import ShardEntry
from neurochorus.data_shards.session_part import MEMBERS, TAR_BLOCK, SessionPart

TAR_RECORD = 20 * TAR_BLOCK  # a tar ends with two empty blocks, and is padded to whole records
COPY_BYTES = 2**20


class ShardSequence:
    """Writes shard-NNNNNN.tar, numbered from `first`; `entries` and `shard_files` tell what was written."""

    def __init__(self, directory: Path, shard_bytes: int, first: int = 0):
        self.entries: list[ShardEntry] = []
        self._directory = directory
        self._shard_bytes = shard_bytes
        self._first = first
        self._file: HashingFile | None = None
        self._samples = 0

    def add(self, part: SessionPart) -> dict[str, np.ndarray]:
        """Write the samples of a session; returns its index columns, without `session`."""
        columns = {name: values.copy() for name, values in part.columns.items()}
        columns["shard"] = np.empty(len(part), dtype=np.int32)
        sample = 0
        with part.tar.open("rb") as tar:
            while sample < len(part):
                file = self._shard_with_room()
                # a sample goes into the shard as long as that is not full before it
                room = part.starts[sample] + self._shard_bytes - file.bytes
                stop = int(np.searchsorted(part.starts[:-1], room))
                shift = file.bytes - int(part.starts[sample])
                columns["shard"][sample:stop] = self._first + len(self.entries)
                for member in MEMBERS:
                    there = columns[f"{member}_bytes"][sample:stop] > 0
                    columns[f"{member}_offset"][sample:stop][there] += shift
                _copy(tar, int(part.starts[sample]), int(part.starts[stop]), file)
                self._samples += stop - sample
                sample = stop
        return columns

    def close(self) -> None:
        """Finish the shard that is open, if one is, and put it on disk for good."""
        if self._file is None:
            return
        self._file.write(bytes(2 * TAR_BLOCK + -(self._file.bytes + 2 * TAR_BLOCK) % TAR_RECORD))
        name, size, sha256 = self._file.finish()
        self.entries.append(ShardEntry(file=name, samples=self._samples, bytes=size, sha256=sha256))
        self._file = None

    def _shard_with_room(self) -> "HashingFile":
        if self._file is not None and self._file.bytes >= self._shard_bytes:
            self.close()
        if self._file is None:
            self._file = HashingFile(self._directory / f"shard-{self._first + len(self.entries):06d}.tar")
            self._samples = 0
        return self._file


def _copy(tar: BinaryIO, start: int, stop: int, file: "HashingFile") -> None:
    tar.seek(start)
    while start < stop:
        data = tar.read(min(COPY_BYTES, stop - start))
        if not data:
            raise ValueError(f"{tar.name}: cut short while it was read: remove its directory and start again")
        file.write(data)
        start += len(data)


class HashingFile:
    """A file to write to that knows the sha256 of what was written."""

    def __init__(self, path: Path):
        self.bytes = 0
        self._path = path
        self._file: BinaryIO = path.open("wb")
        self._hash = hashlib.sha256()

    def write(self, data: bytes) -> None:
        self._hash.update(data)
        self.bytes += len(data)
        self._file.write(data)

    def finish(self) -> tuple[str, int, str]:
        """Force the file to disk and return its name, its bytes and its sha256."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        return self._path.name, self.bytes, self._hash.hexdigest()
