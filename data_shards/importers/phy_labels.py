"""The tables of clusters beside a sorting: cluster_group.tsv, cluster_KSLabel.tsv, cluster_info.tsv and the like."""

import csv
from pathlib import Path

import numpy as np

ID_NAMES = ("cluster_id", "id")
LONGEST_TABLE = 50 * 2**20  # bytes


def cluster_labels(folder: Path, ids: np.ndarray) -> dict[str, np.ndarray]:
    """Return the columns of all cluster tables for these cluster ids: numbers (NaN where missing) or text.

    There is always a `group`, "unsorted" where a cluster has none. cluster_info, which phy writes from the others when
    it saves, gives way to them. ValueError names the file.
    """
    cells: dict[str, dict[int, str]] = {}
    tables = [path for pattern in ("cluster_*.csv", "cluster_*.tsv") for path in sorted(folder.glob(pattern))]
    for path in sorted(tables, key=lambda path: path.stem != "cluster_info"):
        for name, values in _table(path).items():
            cells.setdefault(name, {}).update({cluster: text for cluster, text in values.items() if text})
    columns = {name: _typed([values.get(int(cluster), "") for cluster in ids]) for name, values in cells.items()}
    given = cells.get("group", {})
    columns["group"] = np.array([given.get(int(cluster), "unsorted") for cluster in ids], dtype=str)
    return columns


def _table(path: Path) -> dict[str, dict[int, str]]:
    """Return column -> cluster -> text."""
    if path.stat().st_size > LONGEST_TABLE:
        raise ValueError(f"{path}: has {path.stat().st_size} bytes; a table of clusters is not that long")
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    rows = list(csv.reader(lines, delimiter="\t" if lines and "\t" in lines[0] else ","))
    if not rows:
        return {}
    header = [name.strip() for name in rows[0]]
    at = next((header.index(name) for name in ID_NAMES if name in header), None)
    if at is None:
        raise ValueError(f"{path}: has the columns {header}; expected cluster_id among them")
    columns: dict[str, dict[int, str]] = {name: {} for place, name in enumerate(header) if place != at and name}
    for number, row in enumerate(rows[1:], start=2):
        if not row:
            continue
        try:
            cluster = int(float(row[at]))
        except (ValueError, IndexError, OverflowError):
            raise ValueError(f"{path}: line {number} has no whole number in the column {header[at]!r}") from None
        for place, name in enumerate(header[: len(row)]):
            if name in columns and place != at:
                columns[name][cluster] = row[place].strip()
    return columns


def _typed(texts: list[str]) -> np.ndarray:
    """Return numbers where every text that is not empty is one, else the texts."""
    try:
        numbers = np.array([float(text) if text else np.nan for text in texts])
    except ValueError:
        return np.array(texts, dtype=str)
    if not any(texts):
        return np.array(texts, dtype=str)
    whole = bool(np.isfinite(numbers).all() and (numbers == np.floor(numbers)).all() and np.abs(numbers).max() < 2**53)
    return numbers.astype(np.int64) if whole else numbers
