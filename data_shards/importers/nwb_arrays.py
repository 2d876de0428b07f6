"""The arrays of an NWB file: stored ones, ragged columns, rows of another table, references, scaled series.

Each reads what it needs in one or two bulk reads; none loops over reads.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from neurochorus.data_shards.importers.nwb_file import PICKLE_REASON, as_text
from neurochorus.data_shards.importers.source import ArrayView

LONGEST_ROW = 32  # values of a ragged column that may become the text of one label or unit column
BOOKKEEPING = ("neurodata_type", "namespace", "object_id")


@dataclass(frozen=True)
class Stored:
    """An array as the file has it. `data` is what pynwb gives: an array on disk, or a scalar already read."""

    data: Any
    note: str = ""

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(np.shape(self.data))

    @property
    def dtype(self) -> str:
        kind = getattr(self.data, "dtype", None)
        if kind is None:
            return "text" if isinstance(self.data, (str, bytes)) else type(self.data).__name__
        return "text" if isinstance(kind, np.dtype) and kind.kind in "OSU" else str(kind)

    def read(self) -> np.ndarray:
        _check_stored_inside(self.data)
        return plain(self.data[...] if self.shape and hasattr(self.data, "__getitem__") else self.data)

    def view(self) -> ArrayView:
        _check_stored_inside(self.data)
        return self.read() if self.dtype == "text" or not self.shape else self.data

    def ragged(self) -> tuple[np.ndarray, np.ndarray]:
        raise ValueError("is no ragged column: it has no index beside it")


@dataclass(frozen=True)
class Ragged(Stored):
    """A column with several values a row; `indexes` say where each row ends, the innermost first."""

    indexes: list[Any] = field(default_factory=list)

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(np.shape(self.indexes[-1]))

    @property
    def dtype(self) -> str:
        return f"ragged {super().dtype}"

    def ragged(self) -> tuple[np.ndarray, np.ndarray]:
        """Return all values joined, and how many each row has: one bulk read of each array."""
        values = Stored(self.data).read()
        total, ends = len(values), np.arange(len(values) + 1)
        for index in self.indexes:
            stops = Stored(index).read().astype(np.int64)
            bounds = np.concatenate([[0], stops])
            if (np.diff(bounds) < 0).any() or bounds[-1] > len(ends) - 1:
                raise ValueError(f"the index beside it goes back, or beyond the {total} values there are: damaged")
            ends = ends[bounds]
        if ends[-1] != total:
            raise ValueError(f"the index beside it ends at {ends[-1]} but there are {total} values: damaged")
        return values, np.diff(ends)

    def read(self) -> np.ndarray:
        """Return a text a row, its values joined by commas; numbers with one value in each row stay numbers."""
        values, counts = self.ragged()
        if values.dtype.kind != "U" and values.ndim == 1 and (counts == 1).all():
            return values
        if values.ndim != 1 or counts.max(initial=0) > LONGEST_ROW:
            raise ValueError(
                f"is ragged, with up to {counts.max(initial=0)} values of shape {values.shape[1:]} a row: it can be "
                "read as spike times or intervals, but not as one value a row"
            )
        return np.array([", ".join(row.astype(str)) for row in np.split(values, np.cumsum(counts)[:-1])], dtype=str)

    def view(self) -> ArrayView:
        return self.read()


@dataclass(frozen=True)
class AtRows:
    """The rows of a column that another array points to, such as the location of each unit's electrode.

    Where a row points to several, different texts are joined by + and numbers averaged.
    """

    column: Any
    rows: Stored
    note: str = ""

    @property
    def shape(self) -> tuple[int, ...]:
        return self.rows.shape + self.column.shape[1:]

    @property
    def dtype(self) -> str:
        return self.column.dtype

    def read(self) -> np.ndarray:
        if not isinstance(self.rows, Ragged):
            return self._at(self.rows.read())
        rows, counts = self.rows.ragged()
        values = self._at(rows)
        pieces = np.split(values, np.cumsum(counts)[:-1]) if len(counts) else []
        if values.dtype.kind == "U":
            return np.array(["+".join(dict.fromkeys(piece)) for piece in pieces], dtype=str)
        if all(len(np.unique(piece)) == 1 for piece in pieces):
            return np.array([piece[0] for piece in pieces], dtype=values.dtype)
        return np.array([piece.mean() if len(piece) else np.nan for piece in pieces])

    def view(self) -> ArrayView:
        return self.read()

    def ragged(self) -> tuple[np.ndarray, np.ndarray]:
        rows, counts = self.rows.ragged()
        return self._at(rows), counts

    def _at(self, rows: np.ndarray) -> np.ndarray:
        values = self.column.read()
        if len(rows) and not 0 <= rows.min() <= rows.max() < len(values):
            raise ValueError(f"points to row {rows.max()} (lowest {rows.min()}) of a table with {len(values)} rows")
        return values[rows]


@dataclass(frozen=True)
class References(Stored):
    """A column of references to groups: their names, or one of their attributes."""

    attribute: str | None = None

    @property
    def dtype(self) -> str:
        return "text"

    def read(self) -> np.ndarray:
        targets = self.targets(slice(None))
        if self.attribute is None:
            return np.array([target.name for target in targets], dtype=str)
        return np.array([as_text(target.attributes.get(self.attribute, "")) for target in targets], dtype=str)

    def targets(self, rows: slice) -> list[Any]:
        """Return the groups that these rows refer to."""
        if _pickled(self.data):
            raise ValueError(f"holds pickled references; {PICKLE_REASON}: take the column from another table")
        return list(self.data[rows])

    def attributes(self) -> list[str]:
        """Return the names of the text attributes of the groups, as the first row has them; none if unreadable."""
        if _pickled(self.data) or not self.shape or self.shape[0] == 0:
            return []
        found = self.targets(slice(0, 1))[0].attributes
        return [name for name, value in found.items() if name not in BOOKKEEPING and isinstance(value, (str, bytes))]


@dataclass(frozen=True)
class Scaled(Stored):
    """The samples of a series in its unit: data * conversion + offset, applied to the rows that are read.

    factor: one number, or one for each channel (conversion and channel_conversion together).
    """

    factor: Any = 1.0
    offset: float = 0.0

    @property
    def dtype(self) -> str:
        return "float64"

    def read(self) -> np.ndarray:
        return np.asarray(self.view()[:])

    def view(self) -> ArrayView:
        _check_stored_inside(self.data)
        return ScaledRows(self.data, self.factor, self.offset)


@dataclass(frozen=True)
class ScaledRows:
    """An array on disk whose rows are scaled as they are read."""

    data: Any
    factor: Any
    offset: float

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.data.shape)

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(np.float64)

    @property
    def chunks(self) -> tuple[int, ...] | None:
        return getattr(self.data, "chunks", None)

    def __getitem__(self, rows: Any) -> np.ndarray:
        factor = self.factor
        if np.ndim(factor) and isinstance(rows, tuple) and len(rows) > 1:
            factor = factor[rows[1]]
        return np.asarray(self.data[rows]).astype(np.float64) * factor + self.offset


def plain(values: Any) -> np.ndarray:
    """Return numbers, bools, or text as numpy str; bytes are decoded. ValueError for anything else."""
    array = np.asarray(values)
    if array.dtype.kind == "S":
        return np.char.decode(array, "utf-8", "replace")
    if array.dtype.kind == "O":
        items = [item.decode("utf-8", "replace") if isinstance(item, bytes) else item for item in array.reshape(-1)]
        odd = next((item for item in items if not isinstance(item, str)), None)
        if odd is not None:
            raise ValueError(f"holds values of type {type(odd).__name__}; expected numbers or text")
        return np.array(items, dtype=str).reshape(array.shape)
    if array.dtype.kind not in "biufU":
        raise ValueError(f"is of type {array.dtype}; expected numbers or text")
    return array


def _pickled(data: Any) -> bool:
    filters = getattr(getattr(data, "dataset", data), "filters", None)
    return any(getattr(item, "codec_id", "") == "pickle" for item in filters or [])


def _check_stored_inside(data: Any) -> None:
    """Refuse arrays that are pickled, or whose values HDF5 would take from other files."""
    if _pickled(data):
        raise ValueError(f"is pickled; {PICKLE_REASON}: write it again with another codec")
    if getattr(data, "external", None) or getattr(data, "is_virtual", False):
        raise ValueError("takes its values from other files, which are not read: copy them into this one")
