"""NWB files as a source of arrays named by their paths; see nwb_keys.py for what the keys are."""

import re
from pathlib import Path
from typing import ClassVar

import numpy as np

from neurochorus.data_shards.importers.nwb_file import NwbFile
from neurochorus.data_shards.importers.nwb_keys import Entry, all_entries
from neurochorus.data_shards.importers.odd_times import odd_times
from neurochorus.data_shards.importers.source import ArrayView, KeyInfo, Source, Timing

IDS = {
    "session_id": "general/session_id",
    "subject_id": "general/subject/subject_id",
    "identifier": "identifier",
}
"Short names for ids of a file, in which characters that our ids do not allow become _."


class NwbSource(Source):
    """An open NWB file, HDF5 or Zarr."""

    tables: ClassVar[dict[str, str]] = {"units": "units", "trials": "intervals/trials"}

    def __init__(self, path: Path):
        super().__init__(path)
        self._file = NwbFile(path, self.notes)
        try:
            self._entries = all_entries(self._file)
        except RecursionError:
            self.close()
            raise ValueError(f"{path}: groups contain each other without end: damaged, or made to harm") from None

    def close(self) -> None:
        self._file.close()

    def keys(self) -> list[str]:
        return list(self._entries)

    def has(self, key: str) -> bool:
        return self._full(key) in self._entries

    def info(self, key: str) -> KeyInfo:
        entry = self._entry(key)
        return KeyInfo(key, entry.shape, entry.dtype, entry.note)

    def view(self, key: str, ndim: int | tuple[int, ...] | None = None) -> ArrayView:
        try:
            values = self._entry(key).view()
        except ValueError as error:
            raise ValueError(f"{self.where(key)}: {error}") from None
        self._check_dimensions(key, tuple(values.shape), ndim)
        return values

    def ragged(self, key: str) -> tuple[np.ndarray, np.ndarray]:
        try:
            return self._entry(key).ragged()
        except ValueError as error:
            raise ValueError(f"{self.where(key)}: {error}") from None

    def timing(self, key: str) -> Timing | None:
        """Return the times of a series' samples, or their rate and start; None for what is no series."""
        series = self._full(key)
        if f"{series}/timestamps" in self._entries:
            return Timing(times=f"{series}/timestamps")
        if f"{series}/rate" not in self._entries or f"{series}/starting_time" not in self._entries:
            return None
        rate, start_s = self.number(f"{series}/rate"), self.number(f"{series}/starting_time")
        if rate <= 0:
            raise ValueError(f"{self.where(key)}: its rate is {rate}; expected a positive number of samples per second")
        return Timing(rate=rate, start_s=start_s)

    def _full(self, key: str) -> str:
        """Return the path that a key stands for: an id by its short name, a series by its array `data`."""
        if key in self._entries:
            return key
        return IDS.get(key, key.removesuffix("/data"))

    def _existing(self, key: str) -> str:
        if key in IDS and not self.has(key):
            raise ValueError(
                f"{self.path}: names no {key}: use another id of the file in the recipe, {{stem}}, or a text"
            )
        return super()._existing(key)

    def _entry(self, key: str) -> Entry:
        return self._entries[self._full(self._existing(key))]

    def _read(self, key: str) -> np.ndarray:
        try:
            values = self._entry(key).read()
        except (ValueError, OSError, RuntimeError, KeyError, TypeError) as error:
            raise ValueError(f"{self.where(key)}: {error}") from None
        if key in IDS:
            return np.array(self._clean_id(key, str(values.reshape(-1)[0]) if values.size else ""))
        if key.rsplit("/", 1)[-1] == "timestamps":
            self._note_odd_times(key, values)
        return values

    def _clean_id(self, key: str, found: str) -> str:
        if not found.strip():
            raise ValueError(f"{self.where(key)}: is empty: give that id in the recipe, as a text or from {{stem}}")
        cleaned = re.sub(r"[^A-Za-z0-9_-]+", "_", found.strip())
        if cleaned != found:
            self._file.note(f"{key} {found!r} is written {cleaned!r}: our ids are letters, digits, _ and -")
        return cleaned

    def _note_odd_times(self, key: str, times: np.ndarray) -> None:
        if times.dtype.kind == "f" and (words := odd_times(times)[1]):
            self._file.note(f"{key}: of {times.size} times {words}")
