"""Reading MATLAB .mat files: v5 (scipy) and v7.3 (HDF5), told apart by what the file begins with.

A key is a variable, or a dotted path into structs: `data.spikes`. Vectors lose their axis of length 1, char arrays
become text, and cell arrays of vectors are ragged columns.
"""

import math
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from scipy.io import loadmat, whosmat
from scipy.io.matlab import MatlabFunction, MatlabOpaque, MatReadError, mat_struct

from neurochorus.data_shards.importers.hdf5 import join_rows
from neurochorus.data_shards.importers.source import KeyInfo, Source

DEEPEST = 16  # structs within structs
DAMAGE = (
    *(OSError, ValueError, TypeError, KeyError, IndexError, AttributeError, ArithmeticError, EOFError, RuntimeError),
    *(MemoryError, MatReadError, zlib.error, struct.error),
)


def open_mat(path: Path) -> Source:
    """Open a .mat file of either kind; ValueError if it is none."""
    from neurochorus.data_shards.importers.mat73 import Mat73

    return Mat73(path) if h5py.is_hdf5(path) else Mat5(path)


class MatSource(Source):
    """What both kinds share: MATLAB has no vectors and no last axes of length 1, so the shape asked for decides."""

    separator = "."

    def array(self, key: str, ndim: int | tuple[int, ...] | None = None) -> np.ndarray:
        values = fitted(self._read(self._existing(key)), ndim)
        self._check_dimensions(key, values.shape, ndim)
        return values


def fitted(values: np.ndarray, ndim: int | tuple[int, ...] | None) -> np.ndarray:
    """Return MATLAB's array with as many axes as wanted: (n, 1) or (1, n) as (n,), and a last axis of 1 put back."""
    allowed = (ndim,) if isinstance(ndim, int) else ndim
    is_vector = values.ndim == 2 and 1 in values.shape
    if allowed is None:
        return values.reshape(-1) if is_vector else values
    if values.ndim in allowed:
        return values
    if 1 in allowed and is_vector:
        return values.reshape(-1)
    return values[..., None] if values.ndim + 1 in allowed else values


class Mat5(MatSource):
    """A .mat file of v4 to v7: a variable is read whole, when one of its fields is asked for."""

    def __init__(self, path: Path):
        super().__init__(path)
        try:
            listed = whosmat(str(path), appendmat=False)
        except DAMAGE as error:
            raise ValueError(
                f"{path}: cannot be read as a .mat file ({error}): is it whole? "
                "`launch/shard.py --suggest FILE` tells which importer fits a file"
            ) from None
        self._listed = {name: (shape, kind) for name, shape, kind in listed}
        self._variables: dict[str, Any] = {}
        for name, (shape, kind) in self._listed.items():
            self._check_size(name, math.prod(shape) * (1 if kind in ("char", "logical", "int8", "uint8") else 8))

    def keys(self) -> list[str]:
        """Return all variables, and the paths into those that are structs; only these are read for it."""
        found = []
        for name, (_, kind) in self._listed.items():
            found += list(self._paths(name, self._variable(name))) if kind == "struct" else [name]
        return found

    def has(self, key: str) -> bool:
        return self._find(key) is not None

    def info(self, key: str) -> KeyInfo:
        found = self._find(self._existing(key))
        note = "cell array" if isinstance(found, np.ndarray) and found.dtype == object else ""
        return KeyInfo(key, np.shape(found), str(getattr(found, "dtype", "struct")), note)

    def ragged(self, key: str) -> tuple[np.ndarray, np.ndarray]:
        found = self._find(self._existing(key))
        if not (isinstance(found, np.ndarray) and found.dtype == object):
            return super().ragged(key)
        return join_rows(cell_rows([np.asarray(cell) for cell in found.reshape(-1, order="F")]), self.where(key))

    def _read(self, key: str) -> np.ndarray:
        found = self._find(key)
        if isinstance(found, np.ndarray) and found.dtype == object:
            return one_each(list(found.reshape(-1, order="F")), self.where(key))
        if isinstance(found, np.ndarray) and found.dtype.kind in "iufbU":
            return found
        raise ValueError(f"{self.where(key)}: is a {type(found).__name__}; expected numbers or text")

    def _variable(self, name: str) -> Any:
        if name not in self._variables:
            try:
                loaded = loadmat(
                    str(self.path),
                    variable_names=[name],
                    appendmat=False,
                    struct_as_record=False,
                    verify_compressed_data_integrity=True,
                )
                self._variables[name] = loaded[name]
            except DAMAGE as error:
                raise ValueError(f"{self.where(name)}: damaged ({error}): is the file whole?") from None
        return self._variables[name]

    def _find(self, key: str) -> Any:
        name, *fields = key.split(".")
        if name not in self._listed:
            return None
        found = self._variable(name)
        for field in fields:
            found = _field(found, field)
        return None if isinstance(found, MatlabFunction | MatlabOpaque) else found

    def _paths(self, key: str, value: Any, depth: int = 0) -> Iterator[str]:
        fields = _fields(value)
        if not fields:
            if isinstance(value, np.ndarray) and not isinstance(value, MatlabFunction | MatlabOpaque):
                yield key
            return
        if depth < DEEPEST:
            for field in fields:
                yield from self._paths(f"{key}.{field}", _field(value, field), depth + 1)


def _fields(value: Any) -> list[str]:
    """Return the fields of a struct, or of the first of an array of structs."""
    first = value.reshape(-1)[0] if isinstance(value, np.ndarray) and value.dtype == object and value.size else value
    return list(vars(first)["_fieldnames"]) if isinstance(first, mat_struct) else []


def _field(value: Any, field: str) -> Any:
    """Return a field of a struct; of an array of several structs, a cell array of the fields of all."""
    structs = list(value.reshape(-1)) if isinstance(value, np.ndarray) and value.dtype == object else [value]
    if not structs or not all(field in _fields(one) for one in structs):
        return None
    if len(structs) == 1:
        return getattr(structs[0], field)
    cells = np.empty(len(structs), dtype=object)
    for number, one in enumerate(structs):
        cells[number] = getattr(one, field)
    return cells


def cell_rows(cells: list[np.ndarray]) -> list[np.ndarray]:
    """Return what cells hold as vectors, or as (n, 2) where all have two columns and one has several rows."""
    pairs = all(cell.size == 0 or (cell.ndim == 2 and cell.shape[1] == 2) for cell in cells)
    if pairs and any(cell.ndim == 2 and cell.shape[0] > 1 for cell in cells if cell.size):
        return cells
    return [fitted(cell, 1) for cell in cells]


def one_each(cells: list[Any], where: str) -> np.ndarray:
    """Return cells that hold one number each, or one text each, as an array; ValueError for anything else."""
    values = [np.asarray(cell) for cell in cells]
    if all(value.dtype.kind == "U" and value.size <= 1 for value in values):
        return np.array([str(value.reshape(-1)[0]) if value.size else "" for value in values], dtype=str)
    if all(value.dtype.kind in "iufb" and value.size == 1 for value in values):
        return np.array([value.reshape(-1)[0] for value in values])
    raise ValueError(f"{where}: is a cell array of more than one number or text a cell; it can only be a ragged column")
