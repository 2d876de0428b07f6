"""The units of a session as columns: thousands of units cost a few arrays, not a dict each."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, overload

import numpy as np

Value = str | float
Column = np.ndarray | list[Value | None]
_NUMBERS = {float, int, type(None)}


class UnitColumns(Sequence[dict[str, Value]]):
    """One row a unit, in the order of the signal's columns: `unit_id`, `region` and free columns of text or numbers.

    Reads like a list of dicts, from which the values that a unit lacks are left out. `columns` maps a name to float64
    (C,) with NaN where missing, or to a list of C texts with None where missing. Raises ValueError for columns of
    unequal length, values of another kind, and a unit without an id.
    """

    def __init__(self, columns: Mapping[str, Sequence[Any] | np.ndarray], texts: dict[str, str] | None = None):
        """`texts` holds every text seen so far, so that tables that share it keep equal texts once."""
        lengths = {name: len(values) for name, values in columns.items()}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"units: columns differ in length: {lengths}")
        shared = {} if texts is None else texts
        self.columns: dict[str, Column] = {name: _column(name, values, shared) for name, values in columns.items()}
        if lengths:
            ids = self.columns.get("unit_id", [None])
            odd = next((place for place, unit_id in enumerate(ids) if type(unit_id) is not str), None)
            if odd is not None:
                raise ValueError(f"units[{odd}]: has no unit_id, which is a text")

    @classmethod
    def from_rows(cls, rows: Sequence[Mapping[str, Value]], texts: dict[str, str] | None = None) -> "UnitColumns":
        """Make a table of one mapping a unit."""
        names = dict.fromkeys(name for row in rows for name in row)
        return cls({name: [row.get(name) for row in rows] for name in names}, texts)

    @property
    def ids(self) -> list[str]:
        return list(map(str, self.columns.get("unit_id", [])))

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()), []))

    @overload
    def __getitem__(self, place: int) -> dict[str, Value]: ...
    @overload
    def __getitem__(self, place: slice) -> list[dict[str, Value]]: ...
    def __getitem__(self, place: int | slice) -> Any:
        if isinstance(place, slice):
            return [self[number] for number in range(*place.indices(len(self)))]
        row = {name: values[place] for name, values in self.columns.items()}
        return {
            name: value if isinstance(value, str) else float(value)
            for name, value in row.items()
            if value is not None and value == value  # NaN differs from itself
        }

    def __iter__(self) -> Iterator[dict[str, Value]]:
        return (self[place] for place in range(len(self)))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, UnitColumns) and self.to_json() == other.to_json()

    def __repr__(self) -> str:
        return f"UnitColumns({len(self)} units: {', '.join(self.columns)})"

    def to_json(self) -> dict[str, list[Value | None]]:
        """Return the columns as plain lists with None where missing."""
        return {name: _plain(values) for name, values in self.columns.items()}


def _column(name: str, values: Sequence[Any] | np.ndarray, texts: dict[str, str]) -> Column:
    if isinstance(values, np.ndarray):
        values = values.tolist()
    kinds = set(map(type, values))
    if kinds <= _NUMBERS and kinds != {type(None)}:
        return np.array(values, dtype=np.float64)
    if not kinds <= {str} | _NUMBERS:
        found = ", ".join(sorted(kind.__name__ for kind in kinds))
        raise ValueError(f"units: {name} holds {found}; expected text or numbers")
    return [texts.setdefault(value, value) if type(value) is str else value for value in values]


def _plain(values: Column) -> list[Value | None]:
    if not isinstance(values, np.ndarray):
        return values
    plain = values.tolist()
    return [None if value != value else value for value in plain] if np.isnan(values).any() else plain
