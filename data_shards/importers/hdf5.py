"""Reading HDF5 files by key path; links out of the file are refused, and so is data that lies in other files.

A key is the path of a data set, `GROUP@NAME` an attribute, and `GROUP@` the names of what is in a group.
"""

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from h5py import h5o  # type: ignore[attr-defined]

from neurochorus.data_shards.importers.source import ArrayView, KeyInfo, Source, refuse_bomb

DEEPEST = 32  # groups within groups, and links to links
MOST_STEPS = 256  # links on the way to one key: links to links could otherwise multiply without end
OWN_FILTERS = {1, 2, 3, 4, 5, 6, 32000}  # deflate, shuffle, fletcher32, szip, nbit, scale-offset, lzf: part of h5py
DAMAGE = (OSError, RuntimeError, ValueError, KeyError, TypeError, UnicodeDecodeError)


class Hdf5(Source):
    """An open HDF5 file."""

    def __init__(self, path: Path):
        super().__init__(path)
        try:
            self._file = h5py.File(path, "r")
        except OSError as error:
            raise ValueError(
                f"{path}: cannot be read as an HDF5 file ({error}): is it whole? "
                "`launch/shard.py --suggest FILE` tells which importer fits a file"
            ) from None
        self._keys: list[str] | None = None
        self._steps = 0

    def close(self) -> None:
        self._file.close()

    def keys(self) -> list[str]:
        """Return the paths of all data sets; those behind links out of the file are not among them."""
        if self._keys is None:
            try:
                self._keys = list(self._walk(self._file, "", {self._identity(self._file)}))
            except DAMAGE as error:
                raise ValueError(f"{self.path}: damaged ({error}): is the file whole?") from None
        return self._keys

    def has(self, key: str) -> bool:
        return self._find(key) is not None

    def info(self, key: str) -> KeyInfo:
        found = self._existing_node(key)
        if isinstance(found, h5py.Dataset):
            return KeyInfo(key, found.shape, str(found.dtype))
        values = self._read(key)
        return KeyInfo(key, values.shape, values.dtype.name)

    def view(self, key: str, ndim: int | tuple[int, ...] | None = None) -> ArrayView:
        found = self._existing_node(key)
        if not isinstance(found, h5py.Dataset) or found.dtype.kind not in "iufb" or found.shape == ():
            return self.array(key, ndim)
        self._check_dataset(key, found)
        self._check_dimensions(key, found.shape, ndim)
        return Guarded(found, self.where(key))

    def ragged(self, key: str) -> tuple[np.ndarray, np.ndarray]:
        """Return a group of one data set a row, an array of arrays, or an array with its `KEY_index` of ends."""
        found = self._existing_node(key)
        if isinstance(found, h5py.Group):
            rows = [self._read(f"{key}/{name}") for name in natural_order(found)]
            return join_rows(rows, self.where(key))
        if isinstance(found, h5py.Dataset) and h5py.check_vlen_dtype(found.dtype) is not None:
            self._check_dataset(key, found)
            return join_rows([np.asarray(row) for row in self._whole(key, found).reshape(-1)], self.where(key))
        if self.has(f"{key}_index"):
            ends = self.array(f"{key}_index", ndim=1).astype(np.int64)
            values = self.array(key)
            counts = np.diff(ends, prepend=0)
            if len(ends) and (counts.min() < 0 or ends[-1] != len(values)):
                raise ValueError(
                    f"{self.where(key + '_index')}: its ends do not fit the {len(values)} values of {key!r}"
                )
            return values, counts
        return super().ragged(key)

    def _read(self, key: str) -> np.ndarray:
        found = self._find(key)
        if isinstance(found, h5py.Dataset):
            self._check_dataset(key, found)
            return self._plain(key, found)
        if isinstance(found, h5py.Group):
            raise ValueError(f"{self.where(key)}: is a group, of {list(found)[:8]}; expected a data set")
        return plain_array(np.asarray(found), self.where(key))

    def _plain(self, key: str, found: h5py.Dataset) -> np.ndarray:
        """Return a data set as numbers, bools or text."""
        if h5py.check_string_dtype(found.dtype) is not None:
            self._check_size(key, int(found.size or 0) * found.dtype.itemsize)
            try:
                text = found.asstr(errors="replace")[()]
            except DAMAGE as error:
                raise ValueError(f"{self.where(key)}: damaged ({error}): is the file whole?") from None
            return np.array(text, dtype=str) if np.size(text) else np.zeros(found.shape, dtype=str)
        if found.dtype.kind not in "iufb":
            raise ValueError(
                f"{self.where(key)}: is of type {found.dtype}; expected numbers or text (object references, compound "
                "types and arrays of arrays are none)"
            )
        return self._whole(key, found)

    def _whole(self, key: str, found: h5py.Dataset) -> np.ndarray:
        self._check_size(key, int(found.size or 0) * found.dtype.itemsize)
        try:
            return np.asarray(found[()])
        except DAMAGE as error:
            raise ValueError(f"{self.where(key)}: damaged ({error}): is the file whole?") from None

    def _existing_node(self, key: str) -> Any:
        found = self._find(key)
        if found is None:
            self._existing(key)  # raises, with the nearest keys
        return found

    def _find(self, key: str) -> Any:
        """Return the data set, group or value of an attribute that a key names; None where there is none."""
        path, at, name = key.partition("@")
        self._steps = 0
        found = self._follow(path)
        if not at or found is None:
            return found
        if not name:
            return np.array(natural_order(found), dtype=str) if isinstance(found, h5py.Group) else None
        try:
            return found.attrs.get(name)
        except DAMAGE as error:
            raise ValueError(f"{self.where(key)}: damaged ({error}): is the file whole?") from None

    def _follow(self, path: str, depth: int = 0) -> Any:
        """Return what a path leads to, link by link; ValueError where a link leads out of the file."""
        found: Any = self._file
        done = ""
        for name in [part for part in path.split("/") if part not in ("", ".")]:
            if not isinstance(found, h5py.Group):
                return None
            found = self._child(found, name, done, depth)
            if found is None:
                return None
            done = f"{done}/{name}"
        return found

    def _child(self, group: h5py.Group, name: str, done: str, depth: int) -> Any:
        self._steps += 1
        if self._steps > MOST_STEPS:
            raise ValueError(f"{self.path}: its links lead in circles at {done!r}")
        try:
            link = group.get(name, getlink=True)
        except DAMAGE:
            return None
        if isinstance(link, h5py.SoftLink) and depth < DEEPEST:
            return self._follow(link.path if link.path.startswith("/") else f"{done}/{link.path}", depth + 1)
        if isinstance(link, h5py.ExternalLink):
            raise ValueError(
                f"{self.where(f'{done}/{name}'.strip('/'))}: is a link to another file ({link.filename}), which is not "
                "followed: copy the data into one file"
            )
        try:
            found = group.get(name) if isinstance(link, h5py.HardLink) else None
            if isinstance(found, h5py.Dataset):
                _ = found.shape, found.dtype, found.chunks  # a damaged header shows here
            return found
        except DAMAGE as error:
            raise ValueError(f"{self.where(f'{done}/{name}'.strip('/'))}: damaged ({error})") from None

    def _walk(self, group: h5py.Group, path: str, seen: set[Any], depth: int = 0) -> Iterator[str]:
        for name in list(group.keys()):
            key = f"{path}/{name}" if path else name
            self._steps = 0
            try:
                found = self._child(group, name, path, 0)
            except ValueError:
                continue
            if isinstance(found, h5py.Dataset):
                yield key
            elif isinstance(found, h5py.Group) and depth < DEEPEST and self._identity(found) not in seen:
                seen.add(self._identity(found))
                yield from self._walk(found, key, seen, depth + 1)

    def _identity(self, group: h5py.Group) -> Any:
        return h5o.get_info(group.id).addr

    def _check_dataset(self, key: str, found: h5py.Dataset) -> None:
        """Refuse data of other files, filters that are not h5py's own, and claims of far more data than is stored."""
        try:
            elsewhere = found.is_virtual or found.external
            properties, stored = found.id.get_create_plist(), found.id.get_storage_size()
            filters = {properties.get_filter(number)[0] for number in range(properties.get_nfilters())}
        except DAMAGE as error:
            raise ValueError(f"{self.where(key)}: damaged ({error}): is the file whole?") from None
        if elsewhere:
            raise ValueError(
                f"{self.where(key)}: its data lies in other files, which are not read: copy it into this one"
            )
        if found.shape is None:
            raise ValueError(f"{self.where(key)}: is an empty data set without a shape")
        if not filters <= OWN_FILTERS and "hdf5plugin" not in sys.modules:
            raise ValueError(
                f"{self.where(key)}: is compressed with the HDF5 filter {max(filters - OWN_FILTERS)}, which h5py does "
                "not have: repack the file with gzip (h5repack -f GZIP=4)"
            )
        refuse_bomb(self.where(key), int(found.size or 0) * found.dtype.itemsize, stored)


class Guarded:
    """A data set whose read errors name it; `chunks` are those of the file."""

    def __init__(self, found: h5py.Dataset, where: str, transposed: bool = False):
        self._found = found
        self._where = where
        self._transposed = transposed
        self.shape: tuple[int, ...] = found.shape[::-1] if transposed else found.shape
        self.chunks = found.chunks[::-1] if transposed and found.chunks is not None else found.chunks
        self.dtype: np.dtype = found.dtype

    def __getitem__(self, rows: Any, /) -> np.ndarray:
        if self._transposed:
            rows = rows if isinstance(rows, tuple) else (rows,)
            rows = (*rows, *[slice(None)] * (len(self.shape) - len(rows)))[::-1]
        try:
            values = np.asarray(self._found[rows])
        except DAMAGE as error:
            raise ValueError(f"{self._where}: damaged ({error}): is the file whole?") from None
        return values.T if self._transposed else values


def natural_order(group: h5py.Group) -> list[str]:
    """Return the names in a group with numbers in them in their order: unit2 before unit10."""

    def parts(name: str) -> list[tuple[int, str]]:
        return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"([0-9]+)", name)]

    return sorted(group, key=parts)


def join_rows(rows: list[np.ndarray], where: str) -> tuple[np.ndarray, np.ndarray]:
    """Return rows joined, and how many values each has; a row may be empty. ValueError where a row is no vector."""
    for number, row in enumerate(rows):
        if row.dtype.kind not in "iufb" or (row.ndim != 1 and row.size > 0 and not _is_pairs(row)):
            raise ValueError(f"{where}: row {number} is {row.dtype} of shape {row.shape}; expected a vector of numbers")
    counts = np.array([len(row) if row.size else 0 for row in rows], dtype=np.int64)
    filled = [row for row in rows if row.size]
    return (np.concatenate(filled) if filled else np.zeros(0)), counts


def _is_pairs(row: np.ndarray) -> bool:
    return row.ndim == 2 and row.shape[1] == 2


def plain_array(values: np.ndarray, where: str) -> np.ndarray:
    """Return numbers as they are and bytes or text objects as text; ValueError for anything else."""
    if values.dtype.kind in "iufbU":
        return values
    if values.dtype.kind == "S":
        return np.char.decode(values, "utf-8", "replace")
    if values.dtype.kind == "O" and all(isinstance(value, str | bytes) for value in values.reshape(-1)):
        text = [value.decode("utf-8", "replace") if isinstance(value, bytes) else value for value in values.reshape(-1)]
        return np.array(text, dtype=str).reshape(values.shape)
    raise ValueError(f"{where}: is of type {values.dtype}; expected numbers or text")
