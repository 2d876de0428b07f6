"""index.npz: where every sample lies inside the shards, one row a sample, so that any sample is one `pread` away.

An index belongs to one manifest: it carries `Manifest.hash()` and is refused beside another one.
"""

import os
import zipfile
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

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
        columns = {name: getattr(self, name) for name in COLUMN_DTYPES}
        with temporary.open("wb") as file:
            np.savez(file, manifest_hash=np.array(self.manifest_hash), **columns)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)

    @classmethod
    def load(cls, path: str | Path, manifest_hash: str | None = None) -> "Index":
        """Read an index; `path` is the file or its directory.

        Raises ValueError when the file is missing, damaged or incomplete, or belongs to another manifest than the one
        whose hash is given.
        """
        path = Path(path)
        if path.is_dir():
            pending = path / pending_index_file(manifest_hash)
            # a data set is being extended, or that was interrupted after the new manifest: see importing.py
            path = pending if manifest_hash is not None and pending.is_file() else path / INDEX_FILE
        if not path.is_file():
            raise ValueError(f"{path}: no index there: write the data set again with launch/shard.py")
        try:
            with np.load(path, allow_pickle=False) as arrays:
                columns = {name: arrays[name] for name in arrays.files}
        except FileNotFoundError:  # it was pending when we looked, and has got its name since
            return cls.load(path.parent / INDEX_FILE, manifest_hash)
        except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
            raise ValueError(f"{path}: cannot be read ({error}): write the data set again") from None
        expected = {field.name for field in fields(cls)}
        if set(columns) != expected:
            odd = sorted(expected ^ set(columns))
            raise ValueError(f"{path}: columns missing or unknown: {', '.join(odd)}; write the data set again")
        found_hash = str(columns.pop("manifest_hash"))
        if manifest_hash is not None and found_hash != manifest_hash:
            raise ValueError(
                f"{path}: belongs to another data set (made for manifest {found_hash}, found {manifest_hash}): "
                "a file was replaced; write the data set again"
            )
        for name, dtype in COLUMN_DTYPES.items():
            column = columns[name]
            if column.dtype != dtype or column.shape != columns["shard"].shape or column.ndim != 1:
                raise ValueError(
                    f"{path}: column {name} is {column.dtype} {column.shape}; expected {dtype}, one row a sample"
                )
        return cls(manifest_hash=found_hash, **columns)
