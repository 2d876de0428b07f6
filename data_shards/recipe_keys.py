"""How a recipe points into a file: by the name of an array, where a value need not be written out."""

from neurochorus.data_shards.settings import settings


@settings
class FromKey:
    key: str
    "Name of the array in the file."


@settings
class ColumnKey:
    key: str
    "Name of the array in the file, or in the table of its section."
    at: int | None = None
    "For an array with a second axis, (rows, n) or (n, rows): which of the n."


Number = float | FromKey
