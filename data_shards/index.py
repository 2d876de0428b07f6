"""index.npz: where every sample lies inside the shards, one row a sample, so that any sample is one `pread` away.

An index belongs to one manifest: it carries `Manifest.hash()` and is refused beside another one. It also carries a
digest of its columns, so that it is refused when one was edited. The file is an .npz that numpy can read; it is
written, and read, without compression, so that it cannot inflate.
"""

import hashlib
import io
import os
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from neurochorus.data_shards.members import decode_column

INDEX_FILE = "index.npz"

COLUMN_DTYPES: dict[str, np.dtype] = {
    name: np.dtype(dtype)
    for name, dtype in {
        "shard": "int32",
        "session": "int32",
        "split": "int8",
        "segment": "int32",
        "start": "int64",
        "bins": "int32",
        "signal_offset": "int64",
        "signal_bytes": "int64",
        "signal_crc32": "uint32",
        "covariates_offset": "int64",
        "covariates_bytes": "int64",
        "covariates_crc32": "uint32",
        "meta_offset": "int64",
        "meta_bytes": "int64",
        "meta_crc32": "uint32",
    }.items()
}
BYTES_A_ROW = sum(dtype.itemsize for dtype in COLUMN_DTYPES.values())

_HASH, _DIGEST = "manifest_hash", "digest"
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest time that a zip can say


def pending_index_file(manifest_hash: str | None) -> str:
    """Name of the index of a manifest that is not yet, or only just, the one of its data set."""
    return f"index-{manifest_hash}.npz"


@dataclass(frozen=True, eq=False)
class Index:
    """Columns of one row a sample, in the order in which samples lie in the shards.

    `shard` and `session` index manifest.shards and manifest.sessions; `split` is 0 train, 1 valid, 2 test;
    `segment` numbers the segments of the session; `start` is the sample's first bin in its recording, `bins` its
    length.
    `*_offset` and `*_bytes` locate a member's data inside the tar; covariates_bytes is 0 where there are none.
    """

    manifest_hash: str
    shard: np.ndarray
    session: np.ndarray
    split: np.ndarray
    segment: np.ndarray
    start: np.ndarray
    bins: np.ndarray
    signal_offset: np.ndarray
    signal_bytes: np.ndarray
    signal_crc32: np.ndarray
    covariates_offset: np.ndarray
    covariates_bytes: np.ndarray
    covariates_crc32: np.ndarray
    meta_offset: np.ndarray
    meta_bytes: np.ndarray
    meta_crc32: np.ndarray

    def __len__(self) -> int:
        return len(self.shard)

    @classmethod
    def from_rows(cls, rows: list[dict[str, int]], manifest_hash: str) -> "Index":
        """Build an index from one dict a sample with every column's value."""
        columns = {name: np.array([row[name] for row in rows], dtype) for name, dtype in COLUMN_DTYPES.items()}
        return cls(manifest_hash=manifest_hash, **columns)

    def save(self, path: str | Path) -> None:
        """Write the columns atomically; equal indices give equal bytes."""
        path = Path(path)
        temporary = path.with_name(f".{path.name}.partial")
        with temporary.open("wb") as file:
            file.write(self.to_bytes())
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)

    def to_bytes(self) -> bytes:
        """Return the file that `save` writes."""
        arrays = {_HASH: np.array(self.manifest_hash), _DIGEST: np.array(self.digest())}
        arrays |= {name: getattr(self, name) for name in COLUMN_DTYPES}
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as archive:
            for name, array in arrays.items():
                content = io.BytesIO()
                np.lib.format.write_array(content, array, version=(1, 0), allow_pickle=False)
                # nothing of this machine or moment goes in
                info = zipfile.ZipInfo(f"{name}.npy", _EPOCH)
                info.create_system, info.external_attr = 3, 0o600 << 16
                archive.writestr(info, content.getbuffer())
        return stream.getvalue()

    def digest(self) -> str:
        """Return the sha256 of the manifest's hash and all columns, as hexadecimal digits."""
        digest = hashlib.sha256(self.manifest_hash.encode())
        for name, dtype in COLUMN_DTYPES.items():
            digest.update(np.ascontiguousarray(getattr(self, name), dtype.newbyteorder("<")).data)
        return digest.hexdigest()

    @classmethod
    def load(cls, path: str | Path, manifest_hash: str | None = None) -> "Index":
        """Read an index; `path` is the file or its directory.

        Raises ValueError when the file is missing, damaged, edited or incomplete, or belongs to another manifest than
        the one whose hash is given.
        """
        path, data = index_bytes(Path(path), manifest_hash)
        return cls.parse(data, str(path), manifest_hash)

    @classmethod
    def parse(cls, data: bytes, where: str, manifest_hash: str | None = None) -> "Index":
        """Build an index from the bytes of its file; `where` names it in the errors, which are those of `load`."""
        columns = _arrays(data, where)
        found_hash, digest = str(columns.pop(_HASH, "")), columns.pop(_DIGEST, None)
        if set(columns) != set(COLUMN_DTYPES) or not found_hash:
            odd = sorted(set(COLUMN_DTYPES) ^ set(columns)) or [_HASH]
            raise ValueError(f"{where}: columns missing or unknown: {', '.join(odd)}; write the data set again")
        if manifest_hash is not None and found_hash != manifest_hash:
            raise ValueError(
                f"{where}: belongs to another data set (made for manifest {found_hash}, found {manifest_hash}): "
                "it or manifest.json was edited or replaced; write the data set again"
            )
        for name, dtype in COLUMN_DTYPES.items():
            column = columns[name]
            if column.dtype != dtype or column.shape != columns["shard"].shape or column.ndim != 1:
                raise ValueError(
                    f"{where}: column {name} is {column.dtype} {column.shape}; expected {dtype}, one row a sample"
                )
        index = cls(manifest_hash=found_hash, **columns)
        if digest is not None and str(digest) != index.digest():  # the first indices had none
            raise ValueError(f"{where}: a column was edited: its digest does not fit; write the data set again")
        return index


def index_bytes(path: Path, manifest_hash: str | None) -> tuple[Path, bytes]:
    """Return the file of an index and what it holds; `path` is the file or its directory. ValueError when missing.

    While a data set is being extended, or when that was interrupted after the new manifest, the index of the manifest
    has another name: see extending.py.
    """
    places = [path / pending_index_file(manifest_hash), path / INDEX_FILE] if path.is_dir() else [path]
    for place in places:
        try:
            if place.is_file():
                return place, place.read_bytes()
        except FileNotFoundError:  # it was pending when we looked, and has got its name since
            pass
    raise ValueError(f"{places[-1]}: no index there: write the data set again with launch/shard.py")


def is_as_saved(data: bytes, index: Index) -> bool:
    """Tell whether the bytes of the file of an index are those that `Index.save` writes.

    Of an index without a digest, which an earlier version wrote, the columns are all that can be compared.
    """
    return data == index.to_bytes() if _DIGEST in _arrays(data, INDEX_FILE) else True


def _arrays(data: bytes, where: str) -> dict[str, np.ndarray]:
    """The arrays of an .npz without compression, by name. Nothing larger than the file itself is ever made."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = archive.infolist()
            if len({entry.filename for entry in entries}) != len(entries):
                raise ValueError("a name stands in it twice")
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
                raise ValueError("it is compressed, and launch/shard.py compresses none")
            if sum(entry.file_size for entry in entries) > len(data):
                raise ValueError(f"its columns would have more than the {len(data)} bytes of the file")
            return {entry.filename.removesuffix(".npy"): decode_column(archive.read(entry)) for entry in entries}
    except Exception as error:  # zipfile raises a dozen kinds on what it was not made for
        raise ValueError(f"{where}: cannot be read ({error}): write the data set again") from None
