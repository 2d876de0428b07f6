"""How DeepSpeed writes a rank's files: with a checksum, and never an error on one rank alone; at once or behind.

Behind means: into host memory at once, and from there to the disk by a thread, while training goes on. DeepSpeed's own
write-behind (`checkpoint.writer.decoupled`, 0.19.8) is not used. The next optimizer step waits for it all the same; an
error ends its process, of which only that rank learns, at its next step, while the others wait at a barrier; and once
the process has died, `save` returns as if it had written.
"""

import errno
import io
import os
import threading
import zlib
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, BinaryIO

import torch
from deepspeed.runtime.checkpoint_engine.checkpoint_engine import CheckpointCommitInfo, CheckpointEngine

from neurochorus.pretrain.checkpoint_files import Sums


class CheckpointWriter(CheckpointEngine):
    """What DeepSpeed writes a rank's files with.

    DeepSpeed's ranks wait for each other between files, so that an error on one would leave the others waiting until a
    time-out. Here `save` never raises: the first error is kept, for `finish` to tell and the ranks to agree on.
    """

    def __init__(self) -> None:
        super().__init__()
        self.behind = False
        """Whether `save` only copies, and `finish` starts to write. To be set before a checkpoint."""
        self._failure: OSError | None = None
        self._sums: Sums = {}
        self._copies: deque[tuple[str, io.BytesIO]] = deque()

    def create(self, info: CheckpointCommitInfo) -> None:
        self._failure, self._sums, self._copies = None, {}, deque()

    def makedirs(self, path: str, exist_ok: bool = False) -> None:
        try:
            os.makedirs(path, exist_ok=exist_ok)
        except OSError as error:
            self._failure = self._failure or error

    def save(self, state_dict: Any, path: str) -> None:
        if self._failure is not None:
            return
        if self.behind:
            self._copy(state_dict, path)
        else:
            self._write(path, lambda file: torch.save(state_dict, file))  # type: ignore[arg-type]  (write and flush)

    def finish(self) -> Future[Sums]:
        """Size and CRC-32 of the files since `create`, by absolute path, once they are on the disk; or an OSError."""
        found: Future[Sums] = Future()
        if self.behind:
            threading.Thread(target=self._finish, args=(found,), name="checkpoint writer").start()
        else:
            self._finish(found)
        return found

    def load(self, path: str, map_location: Any = None) -> Any:
        return torch.load(path, map_location=map_location, weights_only=False)

    def commit(self, info: CheckpointCommitInfo) -> bool:
        return True

    def _copy(self, state_dict: Any, path: str) -> None:
        """Keep the bytes of a file: training changes the state itself."""
        copy = io.BytesIO()
        try:
            torch.save(state_dict, copy)
        except (MemoryError, RuntimeError) as error:
            self._failure = OSError(errno.ENOMEM, f"no copy of the state could be made in host memory ({error})", path)
        self._copies.append((path, copy))

    def _finish(self, found: Future[Sums]) -> None:
        try:
            while self._copies and self._failure is None:
                path, copy = self._copies.popleft()
                self._write(path, lambda file, copy=copy: file.write(copy.getbuffer()))
        except Exception as error:  # in a thread nobody else would hear of it
            self._failure = OSError(f"{type(error).__name__}: {error}")
        self._copies.clear()
        if self._failure is None:
            found.set_result(self._sums)
        else:
            found.set_exception(self._failure)

    def _write(self, path: str, fill: Callable[["_Summing"], object]) -> None:
        """Have a file on the disk itself, not only in its cache."""
        try:
            with open(path, "wb", buffering=0) as file:
                summing = _Summing(file)
                try:
                    fill(summing)
                except RuntimeError as error:  # what PyTorch makes of an error of the file
                    raise summing.failure or error from None
                os.fsync(file.fileno())
            self._sums[path] = (summing.size, summing.crc32)
        except OSError as error:
            self._failure = error if error.filename else OSError(error.errno, error.strerror, path)


class _Summing:
    """A file that keeps count of what was written to it, and the error that stopped it."""

    def __init__(self, file: BinaryIO):
        self._file = file
        self.size = self.crc32 = 0
        self.failure: OSError | None = None

    def write(self, data: bytes | memoryview) -> int:
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
