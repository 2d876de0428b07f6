"""A data set behind a URL, as files on this machine.

The manifest is read from the URL whenever a data set is opened. The index and the shards are kept in the cache under
what they must be (the hash of the manifest, the sha256), so that nothing outdated is ever taken for new.
"""

from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from neurochorus.data_shards.dataset_error import DatasetError
from neurochorus.data_shards.files import sha256_of
from neurochorus.data_shards.index import BYTES_A_ROW, INDEX_FILE, Index, pending_index_file
from neurochorus.data_shards.manifest import MANIFEST_FILE, Manifest, ShardEntry
from neurochorus.data_shards.remote.cache import Cache
from neurochorus.data_shards.remote.transfer import NothingThere, append_rest, names_beside, read_all, size_of

MOST_MANIFEST_BYTES = 1 << 31
MOST_INDEX_BYTES = 1 << 33
_INDEX_HEADERS = 1 << 16


class RemoteFiles:
    """See `files.DataFiles`; shards are brought whole on first use, and their sha256 is compared before it."""

    def __init__(self, url: str, manifest_hash: str | None = None):
        self.place: Path | str = url
        self._url, self._known_hash = url, manifest_hash
        self._cache = Cache.of_user()
        self.remedy = f"remove its copy in the cache {self._cache.place(url, '')} to have it brought again"

    def manifest(self) -> Manifest:
        where = f"{self._url}/{MANIFEST_FILE}"
        if self._known_hash is not None:
            kept = self._cache.contents(self._manifest_place(self._known_hash), lambda: self._bring_table(where))
            return Manifest.parse(kept, where)
        data = self._bring_table(where)
        manifest = Manifest.parse(data, where)
        self._cache.contents(self._manifest_place(manifest.hash()), lambda: data)  # for worker processes
        return manifest

    def index(self, manifest: Manifest) -> Index:
        place = self._index_place(manifest)
        try:
            return Index.parse(self._cache.contents(place, lambda: self._bring_index(manifest)), str(place))
        except ValueError:
            place.unlink(missing_ok=True)  # damaged in the cache
            return Index.parse(self._cache.contents(place, lambda: self._bring_index(manifest)), str(place))

    def tables(self, manifest: Manifest) -> dict[str, bytes]:
        index = self._cache.contents(self._index_place(manifest), lambda: self._bring_index(manifest))
        return {MANIFEST_FILE: self._bring_table(f"{self._url}/{MANIFEST_FILE}"), INDEX_FILE: index}

    def open(self, shard: ShardEntry, let_go: Callable[[], None]) -> BinaryIO:
        place = self._cache.place(self._url, f"{shard.sha256}.tar")
        return self._cache.open(place, shard.bytes, lambda file: self._bring(shard, file), let_go)

    def name(self, shard: ShardEntry) -> str:
        return f"{self._url}/{shard.file}"

    def missing(self, manifest: Manifest) -> list[str]:
        return []  # a shard that is not there, or not whole, is met when it is brought

    def stray(self, manifest: Manifest) -> list[str]:
        known = {MANIFEST_FILE, INDEX_FILE, pending_index_file(manifest.hash()), self._url.rpartition("/")[2]}
        known |= {shard.file for shard in manifest.shards}
        return [name for name in names_beside(self._url) if name not in known]

    def size_there(self, shard: ShardEntry) -> int | None:
        """Bytes of a shard at the URL, None where the server does not tell."""
        return size_of(self.name(shard))

    def _manifest_place(self, manifest_hash: str) -> Path:
        return self._cache.place(self._url, f"manifest-{manifest_hash}.json")

    def _index_place(self, manifest: Manifest) -> Path:
        return self._cache.place(self._url, f"index-{manifest.hash()}.npz")

    def _bring_table(self, url: str) -> bytes:
        try:
            return read_all(url, MOST_MANIFEST_BYTES)
        except NothingThere as error:
            raise DatasetError(
                f"{url}: no manifest there, so this is not a finished data set: check the URL, and that the data set "
                "was copied whole"
            ) from error

    def _bring_index(self, manifest: Manifest) -> bytes:
        """The index of this manifest; while a data set is extended it may lie beside that of the one before."""
        rows = sum(shard.samples for shard in manifest.shards)
        limit = min(rows * BYTES_A_ROW + _INDEX_HEADERS, MOST_INDEX_BYTES)
        url, manifest_hash = f"{self._url}/{INDEX_FILE}", manifest.hash()
        try:
            data = read_all(url, limit)
            Index.parse(data, url, manifest_hash)
        except ValueError as first:
            url = f"{self._url}/{pending_index_file(manifest_hash)}"
            try:
                data = read_all(url, limit)
            except NothingThere:
                raise first from None
            Index.parse(data, url, manifest_hash)
        return data

    def _bring(self, shard: ShardEntry, file: BinaryIO) -> None:
        """Complete a file to be the shard. What does not fit its sha256 is brought once more, from its start."""
        url, found = self.name(shard), ""
        for _ in range(2):
            append_rest(url, file, shard.bytes)
            found = sha256_of(file)
            if found == shard.sha256:
                return
            file.truncate(0)
            file.seek(0)
        raise DatasetError(
            f"{url}: brought twice, and its sha256 {found[:16]}... is not the {shard.sha256[:16]}... of the manifest: "
            "another file lies there, or one that was damaged: copy the data set there again"
        )
