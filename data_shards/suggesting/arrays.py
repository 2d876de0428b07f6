"""What is known of the arrays of an unknown file: names, shapes, kinds, and the values of small ones."""

import re
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from neurochorus.data_shards.importers.source import Source

LARGEST = 20_000_000
"Values of an array that is read to look into it; of a larger one, the first rows are."
NUMBERED = re.compile(r"(.+)[/.][A-Za-z_]*[0-9]+")


@dataclass(frozen=True)
class Seen:
    """`kind` is i (whole numbers), f, b, U (text), r (ragged numbers) or ? (nothing that can be used)."""

    key: str
    shape: tuple[int, ...]
    kind: str
    note: str

    @property
    def leaf(self) -> str:
        """The last part of the key, in lower case."""
        return re.split(r"[/.]", self.key)[-1].lower()

    @property
    def table(self) -> str:
        """What stands before the last part of the key."""
        return self.key[: len(self.key) - len(self.leaf)].rstrip("/.")

    @property
    def rows(self) -> int:
        return self.shape[0] if self.shape else 0

    def described(self) -> str:
        kinds = {"i": "whole numbers", "f": "numbers", "b": "yes or no", "U": "text", "r": "ragged numbers"}
        return f"{self.key} {self.shape} {kinds.get(self.kind, 'unknown')}"


class Arrays:
    """The arrays of an open source."""

    def __init__(self, source: Source):
        self.source = source
        self.all = [self._look(key) for key in source.keys()]  # noqa: SIM118  (a source is no mapping)
        self.all += self._numbered_groups()
        self._values: dict[str, np.ndarray | None] = {}

    def of(self, kinds: str, ndim: int | None = None) -> list[Seen]:
        """Return the arrays of some kinds and number of dimensions."""
        return [seen for seen in self.all if seen.kind in kinds and (ndim is None or len(seen.shape) == ndim)]

    @cached_property
    def scalars(self) -> list[Seen]:
        return [seen for seen in self.all if seen.kind in "ifU" and int(np.prod(seen.shape)) == 1]

    def values(self, seen: Seen) -> np.ndarray:
        """Return the values of an array, or its first rows if it is huge; empty when they cannot be read."""
        if seen.key not in self._values:
            self._values[seen.key] = self._read(seen)
        found = self._values[seen.key]
        return np.zeros(0) if found is None else found

    def scalar(self, seen: Seen) -> str | float:
        return self.values(seen).reshape(-1)[0].item()

    def _read(self, seen: Seen) -> np.ndarray | None:
        try:
            if seen.kind == "r":
                return self.source.ragged(seen.key)[0]
            size = int(np.prod(seen.shape))
            if size <= LARGEST:
                return self.source.array(seen.key)
            return np.asarray(self.source.view(seen.key)[: max(LARGEST * seen.rows // size, 1)])
        except ValueError:
            return None

    def _look(self, key: str) -> Seen:
        try:
            info = self.source.info(key)
        except ValueError:  # mostly a column of arrays, which only `ragged` reads
            return Seen(key, *self._ragged_shape(key), "")
        kind = _kind(info.dtype)
        if kind == "?" and info.dtype == "object":
            kind = self._ragged_shape(key)[1]
            if kind == "?":
                kind = "U" if self._is_text(key) else "?"
            return Seen(key, info.shape, kind, info.note)
        return Seen(key, info.shape, kind, " ".join(info.note.split()))

    def _ragged_shape(self, key: str) -> tuple[tuple[int, ...], str]:
        try:
            values, counts = self.source.ragged(key)
        except (ValueError, TypeError):
            return (), "?"
        return (len(counts),), "r" if np.asarray(values).dtype.kind in "iuf" else "?"

    def _is_text(self, key: str) -> bool:
        try:
            return self.source.array(key).dtype.kind == "U"
        except ValueError:
            return False

    def _numbered_groups(self) -> list[Seen]:
        """Groups whose arrays are numbered: one a unit, perhaps, which reads as a ragged column."""
        members: dict[str, list[Seen]] = {}
        for seen in self.all:
            match = NUMBERED.fullmatch(seen.key)
            if match is not None and seen.kind == "f" and len(seen.shape) == 1:
                members.setdefault(match.group(1), []).append(seen)
        found = []
        for group, arrays in members.items():
            shape, kind = self._ragged_shape(group) if len(arrays) > 1 else ((), "?")
            if kind == "r":
                found.append(Seen(group, shape, "r", f"a group of {len(arrays)} numbered arrays"))
        return found


def _kind(dtype: str) -> str:
    if dtype.startswith("ragged"):
        return "r" if "text" not in dtype else "?"
    if dtype.startswith(("text", "str", "|S", "<U", "S", "U")):
        return "U"
    try:
        kind = np.dtype(dtype).kind
    except TypeError:
        return "?"
    return {"u": "i", "i": "i", "f": "f", "b": "b", "S": "U", "U": "U"}.get(kind, "?")
