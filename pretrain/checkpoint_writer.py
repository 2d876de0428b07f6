"""How DeepSpeed writes a rank's files: with a checksum, and never an error on one rank alone.

DeepSpeed's own write-behind (`checkpoint.writer.decoupled`, 0.19.8) is not used. The next optimizer step waits for it
all the same; an error ends its process, of which only that rank learns, at its next step, while the others wait at a
barrier; and once the process has died, `save` returns as if it had written.
"""

import os
import zlib
from typing import Any, BinaryIO

import torch
from deepspeed.runtime.checkpoint_engine.checkpoint_engine import CheckpointCommitInfo, CheckpointEngine

from neurochorus.pretrain.checkpoint_files import Sums


class CheckpointWriter(CheckpointEngine):
    """What DeepSpeed writes a rank's files with.

    DeepSpeed's ranks wait for each other between files, so that an error on one would leave the others waiting until a
    time-out. Here `save` never raises: the first error is kept in `failure`, for the ranks to agree on afterwards.
    """

    def __init__(self) -> None:
        super().__init__()
        self.failure: OSError | None = None
        self.sums: Sums = {}
        """Of the files written since `create`; their names are absolute."""

    def create(self, info: CheckpointCommitInfo) -> None:
        self.failure, self.sums = None, {}

    def makedirs(self, path: str, exist_ok: bool = False) -> None:
        try:
            os.makedirs(path, exist_ok=exist_ok)
        except OSError as error:
            self.failure = self.failure or error

    def save(self, state_dict: Any, path: str) -> None:
        """Write a file to the disk itself, not only to its cache."""
        if self.failure is not None:
            return
        try:
            with open(path, "wb", buffering=0) as file:
                summing = _Summing(file)
                try:
                    torch.save(state_dict, summing)  # type: ignore[arg-type]  (it needs no more than write and flush)
                except RuntimeError as error:  # what PyTorch makes of an error of the file
                    raise summing.failure or error from None
                os.fsync(file.fileno())
            self.sums[path] = (summing.size, summing.crc32)
        except OSError as error:
            self.failure = error if error.filename else OSError(error.errno, error.strerror, path)

    def load(self, path: str, map_location: Any = None) -> Any:
        return torch.load(path, map_location=map_location, weights_only=False)

    def commit(self, info: CheckpointCommitInfo) -> bool:
        return True


class _Summing:
    """A file that keeps count of what was written to it, and the error that stopped it."""

    def __init__(self, file: BinaryIO):
        self._file = file
        self.size = self.crc32 = 0
        self.failure: OSError | None = None

    def write(self, data: bytes) -> int:
        self.crc32 = zlib.crc32(data, self.crc32)
        self.size += len(data)
        rest = memoryview(data)
        try:
            while rest:  # without a buffer, less than asked for may be written
                rest = rest[self._file.write(rest) :]
        except OSError as error:
            self.failure = error
            raise
        return len(data)

    def flush(self) -> None: ...
