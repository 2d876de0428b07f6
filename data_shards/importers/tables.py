"""Reading tables of text, CSV and TSV: the first line names the columns, and each column is an array.

A column is whole numbers, numbers or text, whichever first fits all of it; an empty cell among numbers is NaN.
"""

import csv
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from neurochorus.data_shards.importers.source import Source

ENDINGS = (".csv", ".tsv", ".txt")
ROWS_AT_ONCE = 20_000
LONGEST_HEADER = 2**20
WHOLE = re.compile(r"[+-]?[0-9]{1,18}")
MISSING = ("", "nan", "na", "n/a", "null", "none")


class Tables(Source):
    """A table whose columns are named arrays; or a folder of tables, whose keys are `TABLE/COLUMN`."""

    def __init__(self, path: Path):
        super().__init__(path)
        if path.is_dir():
            files = sorted(file for file in path.iterdir() if file.suffix.lower() in ENDINGS and file.is_file())
            self._files = {file.stem: file for file in files}
            if len(self._files) < len(files):
                raise ValueError(f"{path}: two tables have the same name without their endings: rename one")
            if not files:
                raise ValueError(
                    f"{path}: the folder holds no table ({', '.join(ENDINGS)}): check the recipe's `files`"
                )
        else:
            self._files = {"": path}
        self._tables: dict[str, dict[str, np.ndarray]] = {}

    def keys(self) -> list[str]:
        return [f"{name}/{column}" if name else column for name in self._files for column in self._table(name)]

    def _read(self, key: str) -> np.ndarray:
        name, _, column = key.partition("/") if "" not in self._files else ("", "", key)
        return self._table(name)[column]

    def _table(self, name: str) -> dict[str, np.ndarray]:
        if name not in self._tables:
            self._tables[name] = read_table(self._files[name])
        return self._tables[name]


def read_table(path: Path) -> dict[str, np.ndarray]:
    """Return the columns of a table by name, each (rows,); ValueError names file and line.

    The file is read twice, once to see what its columns are: no cell is ever changed to a number and back.
    """
    try:
        names = next(_blocks(path))[0]
        kinds = ["i"] * len(names)
        for block in _rows(path):
            kinds = [_wider(kind, list(column)) for kind, column in zip(kinds, zip(*block))]
        pieces = [[_converted(kind, list(column)) for kind, column in zip(kinds, zip(*block))] for block in _rows(path)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path}: cannot be read as a table ({error}): is it text in UTF-8?") from None
    return {
        name: np.concatenate([piece[number] for piece in pieces]) if pieces else np.zeros(0)
        for number, name in enumerate(names)
    }


def _rows(path: Path) -> Iterator[list[list[str]]]:
    """Yield the rows below the header in blocks."""
    blocks = _blocks(path)
    next(blocks)
    return blocks


def _blocks(path: Path) -> Iterator[list[list[str]]]:
    """Yield the header and then rows in blocks, so that a long table never stands in memory as text."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        delimiter = _delimiter(path, file.readline(LONGEST_HEADER))
        file.seek(0)
        rows = csv.reader(file, delimiter=delimiter, strict=True)
        names = _names(path, next(rows, []))
        yield [names]
        block: list[list[str]] = []
        for row in rows:
            if not row:
                continue
            if len(row) != len(names):
                raise ValueError(
                    f"{path}: line {rows.line_num} has {len(row)} cells but the header names {len(names)} columns"
                )
            block.append(row)
            if len(block) == ROWS_AT_ONCE:
                yield block
                block = []
        if block:
            yield block


def _delimiter(path: Path, header: str) -> str:
    return "\t" if path.suffix.lower() == ".tsv" else max(",;\t", key=header.count)


def _names(path: Path, header: list[str]) -> list[str]:
    names = [name.strip() for name in header]
    if not names or any(_is_number(name) for name in names):
        raise ValueError(f"{path}: line 1 is {header[:8]}; expected a header that names the columns")
    if len(set(names)) < len(names):
        raise ValueError(f"{path}: line 1 names a column twice, or several by nothing: {names[:20]}")
    return names


def _wider(kind: str, cells: list[str]) -> str:
    """Return what a column is that was `kind` so far: i (whole numbers), f (numbers) or U (text)."""
    if kind == "i" and all(_is_whole(cell) for cell in cells):
        return "i"
    return "f" if kind != "U" and all(_is_number_or_missing(cell) for cell in cells) else "U"


def _converted(kind: str, cells: list[str]) -> np.ndarray:
    if kind == "U":
        return np.array([cell.strip() for cell in cells], dtype=str)
    if kind == "i":
        return np.array([int(cell) for cell in cells], dtype=np.int64)
    return np.array([float("nan") if cell.strip().lower() in MISSING else float(cell) for cell in cells])


def _is_whole(cell: str) -> bool:
    return WHOLE.fullmatch(cell.strip()) is not None


def _is_number_or_missing(cell: str) -> bool:
    return cell.strip().lower() in MISSING or _is_number(cell)


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return "_" not in cell and cell.strip().lower() not in MISSING
