"""The files of a data set: manifest, index and shards, of a directory or behind a URL."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, Protocol

from neurochorus.data_shards.dataset_error import DatasetError
from neurochorus.data_shards.index import INDEX_FILE, Index, index_bytes, pending_index_file
from neurochorus.data_shards.manifest import MANIFEST_FILE, Manifest, ShardEntry
from neurochorus.data_shards.remote.urls import data_place, is_url


class DataFiles(Protocol):
    """Where a data set lies, and its files; what is wrong with one is a ValueError that names it."""

    place: Path | str
    """The directory, or the URL."""
    remedy: str
    """What to do about a shard that was damaged."""

    def manifest(self) -> Manifest: ...

    def index(self, manifest: Manifest) -> Index: ...

    def tables(self, manifest: Manifest) -> dict[str, bytes]:
        """The bytes of manifest and index by their names."""
        ...

    def open(self, shard: ShardEntry, let_go: Callable[[], None]) -> BinaryIO:
        """Return a shard for reading, unbuffered; `let_go` closes shards that are open, should there be no room."""
        ...

    def name(self, shard: ShardEntry) -> str:
        """What to call a shard in a message."""
        ...

    def missing(self, manifest: Manifest) -> list[str]:
        """A line for each shard that is not there in full size, as far as that costs little to know."""
        ...

    def size_there(self, shard: ShardEntry) -> int | None:
        """Return the bytes of a shard where the data set lies, None where that cannot be told."""
        ...

    def stray(self, manifest: Manifest) -> list[str]:
        """Names that lie beside the files of the data set."""
        ...


def data_files(path: str | Path, manifest_hash: str | None = None) -> DataFiles:
    """Return the files of the data set at a path or URL.

    With `manifest_hash`, that of a process that has opened it, the copy of a remote manifest in the cache will do.
    Raises DatasetError for a URL that is not read.
    """
    if not is_url(path):
        return LocalFiles(Path(data_place(path)))
    from neurochorus.data_shards.remote.files import RemoteFiles  # fsspec, only for those who need it

    return RemoteFiles(str(data_place(path)), manifest_hash)


class LocalFiles:
    """A data set directory on this machine."""

    remedy = "copy the shard again or write the data set again"

    def __init__(self, place: Path):
        self.place: Path | str = place
        self._folder = place

    def manifest(self) -> Manifest:
        return Manifest.load(self._folder)

    def index(self, manifest: Manifest) -> Index:
        return Index.load(self._folder, manifest.hash())

    def tables(self, manifest: Manifest) -> dict[str, bytes]:
        index = index_bytes(self._folder, manifest.hash())[1]
        return {MANIFEST_FILE: (self._folder / MANIFEST_FILE).read_bytes(), INDEX_FILE: index}

    def open(self, shard: ShardEntry, let_go: Callable[[], None]) -> BinaryIO:
        return open(self._folder / shard.file, "rb", buffering=0)

    def name(self, shard: ShardEntry) -> str:
        return str(self._folder / shard.file)

    def missing(self, manifest: Manifest) -> list[str]:
        return [
            f"{shard.file}: {problem}"
            for shard in manifest.shards
            if (problem := _file_problem(self._folder / shard.file, shard.bytes)) is not None
        ]

    def size_there(self, shard: ShardEntry) -> int | None:
        return None  # `missing` looked at it

    def stray(self, manifest: Manifest) -> list[str]:
        pending = pending_index_file(manifest.hash())
        known = {MANIFEST_FILE, INDEX_FILE, pending, *(shard.file for shard in manifest.shards)}
        return sorted(path.name for path in self._folder.iterdir() if path.name not in known)


def whole_or_raise(files: DataFiles, manifest: Manifest) -> None:
    """Raise DatasetError when a shard is missing or has another size than the manifest says."""
    problems = files.missing(manifest)
    if problems:
        raise DatasetError(f"{files.place}: not whole: copy it again, or write it again with launch/shard.py", problems)


def sha256_of(file: BinaryIO) -> str:
    """Return the sha256 of a file from its start, as hexadecimal digits."""
    file.seek(0)
    digest = hashlib.sha256()
    while chunk := file.read(1 << 20):
        digest.update(chunk)
    return digest.hexdigest()


def _file_problem(path: Path, size: int) -> str | None:
    """What is wrong with a file that should have `size` bytes."""
    if path.is_symlink() and not path.resolve().is_relative_to(path.parent.resolve()):
        return "a link to a file outside of the data set: put the file itself there"
    if not path.is_file():
        return "is no plain file" if path.exists() else "missing"
    found = path.stat().st_size
    if found != size:
        return f"{found} bytes; the manifest says {size}: {'cut short' if found < size else 'something was added'}"
    return None
