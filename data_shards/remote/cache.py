"""A bounded directory of files brought from elsewhere, for several processes at once.

A file appears under its name when it is whole (a temporary name, then a rename). Who brings one holds a lock of that
file, and who reads one a shared lock on it; all locks are `flock`s, which end with their process however it ends. What
was not used for longest goes first, and nothing that is in use. So the directory stays within its limit plus one file
for each process that reads.
"""

import errno
import fcntl
import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from neurochorus.data_shards.dataset_error import DatasetError

FOLDER_VARIABLE = "NEUROCHORUS_CACHE"
LIMIT_VARIABLE = "NEUROCHORUS_CACHE_GB"
DEFAULT_GB = 50.0
PARTIAL = ".partial"
_LOCKS = "locks"
_FULL = (errno.ENOSPC, errno.EDQUOT)


class Cache:
    """Files by URL and name, `limit_bytes` of them at most (and what is in use)."""

    def __init__(self, folder: Path, limit_bytes: int):
        self.folder, self.limit_bytes = folder, limit_bytes

    @classmethod
    def of_user(cls) -> "Cache":
        """The cache that the environment says: NEUROCHORUS_CACHE (~/.cache/neurochorus), NEUROCHORUS_CACHE_GB (50)."""
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        folder = Path(os.environ.get(FOLDER_VARIABLE) or base / "neurochorus").absolute()
        text = os.environ.get(LIMIT_VARIABLE) or str(DEFAULT_GB)
        try:
            limit = float(text) * 1e9
        except ValueError:
            limit = -1.0
        if not 0 < limit < float("inf"):
            raise DatasetError(f"{LIMIT_VARIABLE} is {text!r}; expected a positive number of gigabytes, such as 50")
        return cls(folder, int(limit))

    def place(self, url: str, name: str) -> Path:
        """Where a file of a data set lies, or would lie."""
        return self.folder / hashlib.sha256(url.encode()).hexdigest()[:32] / name

    def open(
        self, place: Path, size: int, bring: Callable[[BinaryIO], object], let_go: Callable[[], None] | None = None
    ) -> BinaryIO:
        """Return the file of `size` bytes at `place`, unbuffered; no other process removes it while it is open.

        When it is not there, `bring(file)` appends what a file opened for reading and appending lacks, and raises
        DatasetError when it cannot. `let_go` closes files that this process could do without. Raises DatasetError that
        says what to do when the disk refuses.
        """
        with self._disk_trouble_named():
            file = _open_whole(place, size)
            if file is not None:
                return file
            with self._lock(place):
                file = _open_whole(place, size)  # brought by another process, while this one waited for the lock
                return file if file is not None else self._brought(place, size, bring, let_go)

    def contents(self, place: Path, bring: Callable[[], bytes]) -> bytes:
        """Return what the file at `place` holds; when it is not there, it becomes what `bring()` returns."""
        with self._disk_trouble_named(), self._lock(place):
            if place.is_file():
                os.utime(place)
                return place.read_bytes()
            data = bring()
            self._make_room(len(data), None)
            temporary = place.with_name(place.name + PARTIAL)
            temporary.write_bytes(data)
            temporary.replace(place)
            return data

    @contextmanager
    def _lock(self, place: Path) -> Iterator[None]:
        """Keep other processes, and other threads, from bringing the same file."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        place.parent.mkdir(exist_ok=True)
        with self._lock_file(place) as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _brought(
        self, place: Path, size: int, bring: Callable[[BinaryIO], object], let_go: Callable[[], None] | None
    ) -> BinaryIO:
        partial = place.with_name(place.name + PARTIAL)
        with partial.open("a+b", buffering=0) as file:
            self._make_room(size - file.seek(0, os.SEEK_END), let_go)
            try:
                bring(file)
            except OSError as error:
                if error.errno not in _FULL:
                    raise
                if let_go is not None:
                    let_go()
                self._shrink(0)
                bring(file)
            os.fsync(file.fileno())
            partial.replace(place)
        opened = _open_whole(place, size)
        if opened is None:
            raise DatasetError(f"{place}: was removed as soon as it was there: is something cleaning {self.folder}?")
        return opened

    def _make_room(self, needed: int, let_go: Callable[[], None] | None) -> None:
        target = self.limit_bytes - needed
        if self._shrink(target) > target and let_go is not None:
            let_go()
            self._shrink(target)

    def _shrink(self, target: int) -> int:
        """Remove what was not used for longest until `target` bytes are left or all is in use; returns what is left."""
        with self._lock(self.folder / _LOCKS / "eviction"):
            files = sorted(self._files())
            left = sum(size for _, size, _ in files)
            for _, size, path in files:
                if left <= target:
                    break
                if self._remove_unused(path):
                    left -= size
        return left

    def _files(self) -> Iterator[tuple[int, int, Path]]:
        """(time of last use, bytes, path) of each file."""
        for folder in os.scandir(self.folder):
            if folder.name == _LOCKS or not folder.is_dir(follow_symlinks=False):
                continue
            for entry in os.scandir(folder):
                try:
                    found = entry.stat(follow_symlinks=False)
                except FileNotFoundError:
                    continue
                yield found.st_mtime_ns, found.st_size, Path(entry.path)

    def _remove_unused(self, path: Path) -> bool:
        """Whether a file could be removed: nobody reads it, and nobody brings it."""
        try:
            with path.open("r+b") as file, self._lock_file(path.with_name(path.name.removesuffix(PARTIAL))) as lock:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink()
        except (BlockingIOError, FileNotFoundError):
            return False
        return True

    def _lock_file(self, place: Path) -> BinaryIO:
        """A file to lock for the sake of another. There are 256, never removed, so that nobody locks a removed one."""
        folder = self.folder / _LOCKS
        folder.mkdir(exist_ok=True)
        name = "eviction" if place.name == "eviction" else hashlib.sha256(os.fsencode(place)).hexdigest()[:2]
        return (folder / name).open("ab")

    @contextmanager
    def _disk_trouble_named(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise DatasetError(
                f"the cache {self.folder}: {error.strerror or error}: free space there, set {LIMIT_VARIABLE} (now "
                f"{self.limit_bytes / 1e9:g}) lower, or set {FOLDER_VARIABLE} to a directory on another disk"
            ) from error


def _open_whole(place: Path, size: int) -> BinaryIO | None:
    """The file, locked against removal and marked as used now; None when it is not there or not whole."""
    try:
        file = place.open("rb", buffering=0)
    except FileNotFoundError:
        return None
    if os.fstat(file.fileno()).st_size != size:
        file.close()
        return None
    fcntl.flock(file, fcntl.LOCK_SH)
    os.utime(file.fileno())
    return file
