"""What a file says of its units, and which of them are kept."""

import re
from dataclasses import dataclass, field

import numpy as np

from neurochorus.data_shards.expressions import Expression
from neurochorus.data_shards.importers.grid import bins_inside, merge
from neurochorus.data_shards.importers.notes import Notes
from neurochorus.data_shards.importers.source import Source
from neurochorus.data_shards.importers.templates import from_template
from neurochorus.data_shards.recipe_keys import ColumnKey
from neurochorus.data_shards.recipe_units import UnitsRecipe
from neurochorus.data_shards.recording import Unit

NO_IDENTIFIER = re.compile(r"[^A-Za-z0-9_-]")


@dataclass(frozen=True)
class UnitTable:
    """The units of a file, in its order, before any is dropped; C counts them.

    `described` is how many the columns describe (those of the recipe, or of its condition), None without any.
    """

    source: Source
    recipe: UnitsRecipe
    columns: dict[str, np.ndarray]
    notes: Notes = field(default_factory=Notes)

    @classmethod
    def read(cls, source: Source, recipe: UnitsRecipe, notes: Notes) -> "UnitTable":
        """Read the columns that the recipe names; ValueError where they differ in length or hold no text or numbers."""
        wanted = dict(recipe.columns)
        for name in ("id", "region"):
            item = getattr(recipe, name)
            if isinstance(item, ColumnKey):
                wanted[name] = item
        table = cls(source, recipe, {}, notes)
        keys = {name: table._key(item.key) for name, item in wanted.items()}
        columns = {name: _column(source, keys[name], item.at) for name, item in wanted.items()}
        lengths = {keys[name]: len(values) for name, values in columns.items()}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"{source.path}: the arrays that describe units differ in length: {lengths}")
        return cls(source, recipe, columns, notes)

    @property
    def described(self) -> int | None:
        if not self.columns and self.recipe.where is not None:
            names = Expression(self.recipe.where).names
            return len(self._asked_for(names[0])) if names else None
        return next((len(values) for values in self.columns.values()), None)

    def kept(self, count: int) -> np.ndarray:
        """Return (C,) bool: which of `count` units meet the recipe's condition. ValueError if none does."""
        for name, values in self.columns.items():
            if len(values) != count:
                raise ValueError(
                    f"{self.source.path}: {len(values)} values of {name!r} describe units but the signal has {count}"
                )
        if self.recipe.where is None:
            return np.ones(count, dtype=bool)
        kept_C = self._where(Expression(self.recipe.where), count)
        return self.without(np.ones(count, dtype=bool), ~kept_C, f"where {self.recipe.where}")

    def without(self, kept_C: np.ndarray, dropped_C: np.ndarray, why: str) -> np.ndarray:
        """Return `kept_C` without `dropped_C`, with the reason noted; ValueError if no unit is left."""
        left = kept_C & ~dropped_C
        self.notes.drop("units", why, int(kept_C.sum() - left.sum()))
        if not left.any():
            reasons = "; ".join(f"{number} dropped, {what}" for what, number in self.notes.dropped["units"].items())
            raise ValueError(f"{self.source.path}: of {len(left)} units none is kept: {reasons}")
        return left

    def observed(self, kept_C: np.ndarray, centers_T: np.ndarray, bin_s: float) -> tuple[np.ndarray, np.ndarray | None]:
        """Return which units are kept, (C,), and in which bins all of those were observed, (T,) or None: all.

        Units observed for less than min_observed of the time in which any kept unit was are dropped.
        """
        if self.recipe.observed is None:
            return kept_C, None
        key = self._key(self.recipe.observed)
        values, counts = self.source.ragged(key)
        intervals = np.asarray(values, dtype=np.float64)
        if intervals.ndim == 1 and not (counts % 2).any():
            intervals, counts = intervals.reshape(-1, 2), counts // 2
        if intervals.ndim != 2 or intervals.shape[1] != 2 or len(counts) != len(kept_C):
            raise ValueError(
                f"{self.source.where(key)}: has {len(counts)} rows of values of shape {intervals.shape[1:]}; "
                f"expected intervals (start, stop) for each of {len(kept_C)} units"
            )
        ends = np.cumsum(counts)
        shared: dict[bytes, np.ndarray] = {}  # most files repeat one set of intervals for all units
        masks = []
        for start, stop in zip(ends - counts, ends):
            own = merge(intervals[start:stop])
            if own.tobytes() not in shared:
                shared[own.tobytes()] = bins_inside(centers_T, bin_s, own)
            masks.append(shared[own.tobytes()])
        return self._observed_enough(kept_C, masks)

    def _observed_enough(self, kept_C: np.ndarray, masks: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        ever_T = np.logical_or.reduce([mask for mask, kept in zip(masks, kept_C) if kept])
        needed = self.recipe.min_observed * ever_T.sum()
        seldom_C = np.array([mask.sum() < needed or not mask.any() for mask in masks])
        kept_C = self.without(kept_C, seldom_C, f"observed for less than {self.recipe.min_observed:g} of the time")
        all_T = np.logical_and.reduce([mask for mask, kept in zip(masks, kept_C) if kept])
        self.notes.drop("bins", "a kept unit was not observed", int((~all_T).sum()))
        return kept_C, all_T

    def too_slow(self, kept_C: np.ndarray, spikes_C: np.ndarray, seconds: float) -> np.ndarray:
        """Return `kept_C` without units of fewer spikes per second than the recipe's min_rate."""
        if self.recipe.min_rate is None:
            return kept_C
        slow_C = spikes_C < self.recipe.min_rate * seconds
        return self.without(kept_C, slow_C, f"fewer than {self.recipe.min_rate:g} spikes per second")

    def units(self, kept_C: np.ndarray) -> list[Unit]:
        """Return the kept units; without ids of their own they are numbered by their position in the file."""
        count = len(kept_C)
        ids = self.columns.get("id", np.array([f"u{number:04d}" for number in range(count)]))
        if ids.dtype.kind == "f":
            raise ValueError(f"{self.source.path}: unit ids are of type {ids.dtype}; expected text or whole numbers")
        region = self.recipe.region
        same = from_template(self.source, region) if isinstance(region, str) else ""
        regions = self.columns.get("region", np.full(count, same))
        free = {name: values for name, values in self.columns.items() if name not in ("id", "region")}
        return [
            Unit(
                unit_id=self._id(str(ids[number])),
                region=str(regions[number]),
                # a NaN stands for missing: the column is left out (NaN differs from itself)
                columns={name: values[number] for name, values in free.items() if values[number] == values[number]},
            )
            for number in np.flatnonzero(kept_C)
        ]

    def _id(self, text: str) -> str:
        """Return a unit's id as the recipe changes it; ValueError where its pattern finds nothing."""
        if self.recipe.id_pattern is not None:
            match = re.search(self.recipe.id_pattern, text)
            if match is None:
                raise ValueError(f"{self.source.path}: units.id_pattern finds nothing in the unit id {text!r}")
            text = match[1] if match.lastindex else match[0]
        return text if self.recipe.id_replace is None else NO_IDENTIFIER.sub(self.recipe.id_replace, text)

    def _key(self, key: str) -> str:
        return self.source.column(self.recipe.table or self.source.tables.get("units"), key)

    def _where(self, expression: Expression, count: int) -> np.ndarray:
        columns = {name: self._asked_for(name) for name in expression.names}
        return condition(self.source, expression, columns, count, "units")

    def _asked_for(self, name: str) -> np.ndarray:
        """Return the column of that name in the recipe's condition: one of ours, or an array of the file."""
        if name in self.columns:
            return self.columns[name]
        try:
            return _column(self.source, self._key(name), None)
        except ValueError as error:
            named = f" (names of units.columns: {', '.join(self.columns)})" if self.columns else ""
            raise ValueError(f"{error}{named}; asked for by units.where {self.recipe.where!r}") from None


def condition(
    source: Source, expression: Expression, columns: dict[str, np.ndarray], count: int, what: str
) -> np.ndarray:
    """Return (count,) bool, where an expression over columns holds; ValueError naming the file if it cannot be told."""
    for name, values in columns.items():
        if len(values) != count:
            raise ValueError(
                f"{source.path}: {name!r} has {len(values)} values; expected one for each of {count} {what}"
            )
    try:
        return expression.rows(columns, count)
    except ValueError as error:
        raise ValueError(f"{source.path}: {error}") from None


def _column(source: Source, key: str, at: int | None) -> np.ndarray:
    """Return an array (rows,) of text or numbers, or one of the columns of an array (rows, n) or (n, rows)."""
    values = source.array(key, ndim=1 if at is None else 2)
    if at is not None:
        axis = 1 if values.shape[1] <= values.shape[0] else 0
        if not 0 <= at < values.shape[axis]:
            raise ValueError(
                f"{source.where(key)}: has shape {values.shape}; expected `at` from 0 to {values.shape[axis] - 1}"
            )
        values = values.take(at, axis=axis)
    if values.dtype.kind not in "Uiufb":
        raise ValueError(f"{source.where(key)}: is of type {values.dtype}; expected text or numbers")
    return values
