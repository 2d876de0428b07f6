"""One file (or folder) of recordings as named arrays: what importers read, whatever the format.

Every error names the file and the key, what was found, what was expected and what to do. Nothing is ever unpickled or
executed.
"""

import hashlib
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self

import numpy as np

from neurochorus.data_shards.naming import nearest_hint
from neurochorus.data_shards.recipe_keys import FromKey

HASH_BLOCK = 2**20
LARGEST_WHOLE = 2**34  # bytes of an array that is read at once; signals and spike times are read in pieces
BOMB_RATIO = 2000  # deflate reaches 1032: more was never written by a compressor of numbers


class ArrayView(Protocol):
    """An array that may lie on disk: `view[start:stop]` reads those rows only (numpy, h5py and zarr arrays all fit)."""

    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def dtype(self) -> np.dtype: ...
    def __getitem__(self, rows: Any, /) -> Any: ...


@dataclass(frozen=True)
class KeyInfo:
    """What is known of a key without reading its values; `note` holds units, descriptions or what is odd about it."""

    key: str
    shape: tuple[int, ...]
    dtype: str
    note: str = ""


@dataclass(frozen=True)
class Timing:
    """When the samples of a series were taken, and how stored values become values in its unit, for self-describing
    formats: values * scale + offset. Either `times` (the key of its times in s) or `rate` (1/s) and `start_s`."""

    times: str | None = None
    rate: float | None = None
    start_s: float = 0.0
    scale: float = 1.0
    offset: float = 0.0


class Source(ABC):
    """An open file; a context manager. Problems are ValueErrors that name file and key.

    A format implements `keys`, `_read`, and, where arrays need not be read whole, `view`, `info` and `ragged`.
    """

    separator = "/"
    "Stands between the name of a table and that of its column."
    tables: ClassVar[dict[str, str]] = {}
    "The tables `units` and `trials` of a self-describing format: used where the recipe names none."

    def __init__(self, path: Path):
        self.path = path
        self.notes: list[str] = []
        "Plain sentences on what is odd about the file; more may come as arrays are read."

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:  # noqa: B027  (a file that is read at once has nothing to let go of)
        """Let go of the file."""

    @abstractmethod
    def keys(self) -> list[str]:
        """Return the names of all arrays, in the order of the file."""

    @abstractmethod
    def _read(self, key: str) -> np.ndarray:
        """Return the whole array of a key that exists: numbers, bools, or text as numpy str. ValueError if damaged."""

    def where(self, key: str) -> str:
        return f"{self.path}: {key!r}"

    def has(self, key: str) -> bool:
        return key in self.keys()

    def info(self, key: str) -> KeyInfo:
        """Return what is known of a key; formats that can do so tell it without reading the values."""
        values = self._read(self._existing(key))
        return KeyInfo(key, values.shape, values.dtype.name)

    def array(self, key: str, ndim: int | tuple[int, ...] | None = None) -> np.ndarray:
        """Return the array called `key`; ValueError if it is missing, holds Python objects or has other dimensions."""
        values = self._read(self._existing(key))
        self._check_dimensions(key, values.shape, ndim)
        return values

    def view(self, key: str, ndim: int | tuple[int, ...] | None = None) -> ArrayView:
        """Return the array called `key` for reading by rows; it stays on disk where the format allows."""
        return self.array(key, ndim)

    def ragged(self, key: str) -> tuple[np.ndarray, np.ndarray]:
        """Return a ragged column: all values joined, row by row, and how many each row has (int64).

        ValueError where the format has no ragged columns, or `key` is none.
        """
        raise ValueError(
            f"{self.where(key)}: is no ragged column: name the unit of each spike (`unit_index`) or how many spikes "
            "each unit has (`unit_counts`)"
        )

    def timing(self, key: str) -> Timing | None:
        """Return when the samples of the series called `key` were taken, where the format itself says so."""
        return None

    def column(self, table: str | None, key: str) -> str:
        """Return the full key of a column: in `table` if it is there, else `key` itself."""
        inside = f"{table}{self.separator}{key}"
        return inside if table is not None and self.has(inside) else key

    def scalar(self, key: str) -> str | float:
        """Return the one value of an array as text or number; a whole number comes back as an int."""
        values = self.array(key)
        if values.size != 1 or values.dtype.kind not in "Uiufb":
            raise ValueError(
                f"{self.where(key)}: is {values.dtype} of shape {values.shape}; expected one text or number"
            )
        return values.reshape(()).item()

    def text(self, key: str) -> str:
        return str(self.scalar(key))

    def number(self, key: str) -> float:
        value = self.scalar(key)
        if isinstance(value, str) or not np.isfinite(value):
            raise ValueError(f"{self.where(key)}: is {value!r}; expected a finite number")
        return float(value)

    def times(self, key: str) -> np.ndarray:
        """Return an array (samples,) of finite times in seconds as float64."""
        values = self.array(key, ndim=1)
        if values.dtype.kind not in "iuf":
            raise ValueError(f"{self.where(key)}: is of type {values.dtype}; expected times in seconds")
        times = values.astype(np.float64)
        if not np.isfinite(times).all():
            place = int(np.argmin(np.isfinite(times)))
            raise ValueError(f"{self.where(key)}: the time at {place} is {times[place]}; expected finite times")
        return times

    def sha256(self) -> str:
        """Return the sha256 of the file; of a folder, that of the names and hashes of all its files."""
        if self.path.is_dir():
            digest = hashlib.sha256()
            for path in sorted(p for p in self.path.rglob("*") if p.is_file()):
                digest.update(f"{path.relative_to(self.path)} {file_sha256(path)}\n".encode())
            return digest.hexdigest()
        return file_sha256(self.path)

    def _check_size(self, key: str, size: int) -> None:
        """Refuse to read an array of so many bytes at once."""
        if size > LARGEST_WHOLE:
            raise ValueError(
                f"{self.where(key)}: has {size} bytes, too many to be read at once (signals and spike times are read "
                "in pieces where the format allows: HDF5, .npy and .mat v7.3)"
            )

    def _existing(self, key: str) -> str:
        if not self.has(key):
            raise ValueError(f"{self.path}: has no array {key!r}; {nearest_hint(key, self.keys(), 'arrays')}")
        return key

    def _check_dimensions(self, key: str, shape: tuple[int, ...], ndim: int | tuple[int, ...] | None) -> None:
        allowed = (ndim,) if isinstance(ndim, int) else ndim
        if allowed is not None and len(shape) not in allowed:
            expected = " or ".join(str(count) for count in allowed)
            raise ValueError(f"{self.where(key)}: has shape {shape}; expected {expected} dimensions")


def file_sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(HASH_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def number_or_key(source: Source, value: float | FromKey | None, default: float) -> float:
    """Return a number of a recipe, or the one that it points to in the file; `default` where it has none."""
    if value is None:
        return default
    return source.number(value.key) if isinstance(value, FromKey) else float(value)


def refuse_bomb(where: str, size: int, stored: int) -> None:
    """Raise ValueError for data that claims to be far larger than any compressor could have made it."""
    if size > 2**26 and size > BOMB_RATIO * max(stored, 1):
        raise ValueError(
            f"{where}: claims {size} bytes but the file stores {stored} for it: it is not read, as a damaged or "
            "hostile file would fill the memory"
        )
