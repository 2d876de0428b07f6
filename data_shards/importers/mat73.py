"""Reading MATLAB v7.3 files: HDF5 with axes in reverse, char as numbers, and cells and structs as references."""

from collections.abc import Iterator
from typing import Any

import h5py
import numpy as np

from neurochorus.data_shards.importers.hdf5 import Guarded, Hdf5, join_rows
from neurochorus.data_shards.importers.mat import MatSource, cell_rows, one_each
from neurochorus.data_shards.importers.source import ArrayView, KeyInfo

HIDDEN = ("#refs#", "#subsystem#")  # where MATLAB keeps what cells and objects refer to


class Mat73(MatSource, Hdf5):
    """An open .mat file of v7.3; references are followed within the file only, which HDF5 guarantees."""

    def keys(self) -> list[str]:
        paths = super().keys()
        return [path.replace("/", ".") for path in paths if not path.startswith(HIDDEN)]

    def info(self, key: str) -> KeyInfo:
        found = self._existing_node(key)
        shape = found.shape[::-1] if isinstance(found, h5py.Dataset) and found.shape is not None else ()
        kind = _class(found)
        return KeyInfo(key, shape, str(getattr(found, "dtype", "struct")), "" if kind == "double" else kind)

    def view(self, key: str, ndim: int | tuple[int, ...] | None = None) -> ArrayView:
        found = self._existing_node(key)
        allowed = (ndim,) if isinstance(ndim, int) else ndim
        plain = isinstance(found, h5py.Dataset) and _class(found) not in ("cell", "char") and not _is_empty(found)
        if not plain or found.dtype.kind not in "iufb" or (allowed is not None and len(found.shape) not in allowed):
            return self.array(key, ndim)  # a vector whose axis of length 1 goes: small beside a signal
        self._check_dataset(key, found)
        return Guarded(found, self.where(key), transposed=True)

    def ragged(self, key: str) -> tuple[np.ndarray, np.ndarray]:
        found = self._existing_node(key)
        if not (isinstance(found, h5py.Dataset) and h5py.check_ref_dtype(found.dtype) is not None):
            raise ValueError(f"{self.where(key)}: is no cell array: expected a cell of one vector for each unit")
        return join_rows(cell_rows(list(self._cells(key, found))), self.where(key))

    def _follow(self, path: str, depth: int = 0) -> Any:
        return super()._follow(path.replace(".", "/"), depth)

    def _read(self, key: str) -> np.ndarray:
        found = self._find(key)
        if isinstance(found, h5py.Dataset):
            return self._value(key, found)
        return super()._read(key)

    def _value(self, key: str, found: h5py.Dataset) -> np.ndarray:
        """Return a data set as MATLAB showed it: axes in order, char as text, cells of one value each as an array."""
        self._check_dataset(key, found)
        if _is_empty(found):
            return np.zeros(tuple(int(length) for length in np.ravel(found[()])), dtype=np.float64)
        if h5py.check_ref_dtype(found.dtype) is not None:
            return one_each(list(self._cells(key, found)), self.where(key))
        if found.dtype.kind not in "iufb":
            raise ValueError(f"{self.where(key)}: is of type {found.dtype}; expected numbers or text")
        values = self._whole(key, found).T
        if _class(found) == "char":
            rows = values.reshape(1, -1) if values.ndim != 2 else values
            return np.array(["".join(chr(code) for code in row).rstrip() for row in rows.tolist()], dtype=str)
        return values.astype(bool) if _class(found) == "logical" else values

    def _cells(self, key: str, found: h5py.Dataset) -> Iterator[np.ndarray]:
        """Yield what each cell refers to, in MATLAB's order (first axis fastest)."""
        for number, reference in enumerate(np.ravel(found[()])):
            cell = self._file[reference] if reference else None
            if not isinstance(cell, h5py.Dataset) or h5py.check_ref_dtype(cell.dtype) is not None:
                raise ValueError(
                    f"{self.where(key)}: cell {number} holds no numbers or text; cells in cells are not read"
                )
            yield self._value(key, cell)


def _class(found: Any) -> str:
    name = found.attrs.get("MATLAB_class", b"") if hasattr(found, "attrs") else b""
    return name.decode("ascii", "replace") if isinstance(name, bytes) else str(name)


def _is_empty(found: h5py.Dataset) -> bool:
    """MATLAB writes an empty array as its shape, with a mark."""
    return bool(found.attrs.get("MATLAB_empty", 0))
