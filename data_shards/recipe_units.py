"""Settings of a recording's units: what describes them, and which are kept."""

import re
from dataclasses import field

from neurochorus.data_shards.expressions import expression_problems
from neurochorus.data_shards.recipe_keys import ColumnKey
from neurochorus.data_shards.settings import settings


@settings
class UnitsRecipe:
    table: str | None = None
    "Group or table that holds the arrays by unit, so that their keys can be short."
    id: ColumnKey | None = None
    "Array (units,) of text or whole numbers; default: u0000, u0001, ... by position in the file."
    id_pattern: str | None = None
    "Regular expression that finds the part of each id to keep, its first group or all that it matches."
    id_replace: str | None = None
    "Stands for every character of an id other than letters, digits, _ and -, such as the / in group_0/elec_3."
    region: ColumnKey | str = ""
    "Array (units,) of text, or one region for all: text, or a template of scalars in the file such as {meta/region}."
    columns: dict[str, ColumnKey] = field(default_factory=dict)
    "Further columns, name -> array (units,) of text or numbers."
    where: str | None = None
    "Units to keep, an expression over columns of ours or of the file: quality == 'good' and depth > 100."
    min_rate: float | None = None
    "For spikes: units with fewer spikes per second than this are dropped."
    observed: str | None = None
    "Ragged array with a row of (n, 2) times in s for each unit: when it was observed. Segments end where one was not."
    min_observed: float = 0.9
    "Units observed for a smaller share of the time in which any was are dropped rather than end segments."

    def problems(self) -> list[str]:
        found = expression_problems("where", self.where)
        if self.id is None and (self.id_pattern is not None or self.id_replace is not None):
            found.append("id_pattern, id_replace: there is no id to change")
        if self.id_replace is not None and not re.fullmatch(r"[A-Za-z0-9_-]*", self.id_replace):
            found.append(f"id_replace: {self.id_replace!r}; expected letters, digits, _ and -")
        if self.id_pattern is not None:
            try:
                re.compile(self.id_pattern)
            except re.error as error:
                found.append(f"id_pattern: {self.id_pattern!r} is no regular expression ({error})")
        if self.min_rate is not None and not self.min_rate >= 0:
            found.append(f"min_rate: {self.min_rate}; expected 0 or more spikes per second")
        if not 0 <= self.min_observed <= 1:
            found.append(f"min_observed: {self.min_observed}; expected a share from 0 to 1")
        return found
