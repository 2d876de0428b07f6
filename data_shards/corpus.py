"""Several data set directories read as one."""

import bisect
import hashlib
import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from neurochorus.data_shards.dataset import DatasetError, Sample, ShardDataset
from neurochorus.data_shards.manifest import SessionEntry
from neurochorus.data_shards.naming import nearest_hint


class Corpus:
    """Several data sets as one. A sample has one global row: the data sets' rows, one set after the other.

    Raises DatasetError for a session id that two of them hold, for mixed modalities and for different bin widths.
    """

    def __init__(self, paths: str | Path | ShardDataset | Sequence[str | Path | ShardDataset]):
        listed = [paths] if isinstance(paths, (str, Path, ShardDataset)) else list(paths)
        if not listed:
            raise DatasetError("no data set was given: set data.path to one or more data set directories")
        self.datasets = [item if isinstance(item, ShardDataset) else ShardDataset(item) for item in listed]
        self._first_rows = list(itertools.accumulate((len(dataset) for dataset in self.datasets), initial=0))
        self._place: dict[str, int] = {}
        for place, dataset in enumerate(self.datasets):
            for entry in dataset.manifest.sessions:
                self._add(entry, place)
        self.sessions = [entry for dataset in self.datasets for entry in dataset.manifest.sessions]
        self._entries = {entry.session_id: entry for entry in self.sessions}

    def __len__(self) -> int:
        """Samples of all data sets, sessions and splits."""
        return self._first_rows[-1]

    @property
    def modality(self) -> str:
        """`spikes` or `continuous`."""
        return self.sessions[0].modality

    @property
    def bin_s(self) -> float:
        """Width of a bin in seconds."""
        return self.sessions[0].bin_s

    def session(self, session_id: str) -> SessionEntry:
        """Return the manifest entry of a session; an unknown id is a ValueError with the nearest ones."""
        self.dataset_of(session_id)
        return self._entries[session_id]

    def dataset_of(self, session_id: str) -> ShardDataset:
        """Return the data set that holds a session; an unknown id is a ValueError with the nearest ones."""
        if session_id not in self._place:
            where = ", ".join(str(dataset.path) for dataset in self.datasets)
            raise ValueError(
                f"no session {session_id!r} in {where}; {nearest_hint(session_id, self._place, 'sessions')}"
            )
        return self.datasets[self._place[session_id]]

    def rows_of(self, session_id: str, split: str) -> np.ndarray:
        """Return the global rows of one session in one split (train, valid, test), in order of time (int64)."""
        rows = self.dataset_of(session_id).rows_of(session_id, split)
        return rows + self._first_rows[self._place[session_id]]

    def read(self, row: int, with_meta: bool = True) -> Sample:
        """Read the sample with a global row; see ShardDataset.read."""
        if not 0 <= row < len(self):
            raise IndexError(f"row {row} of {len(self)} samples")
        place = bisect.bisect_right(self._first_rows, row) - 1
        return self.datasets[place].read(row - self._first_rows[place], with_meta)

    def hash(self) -> str:
        """Return 16 hex digits that change with the contents of any data set, or with their order."""
        joined = "\n".join(dataset.manifest_hash for dataset in self.datasets)
        return hashlib.sha256(joined.encode()).hexdigest()[:16]

    def _add(self, entry: SessionEntry, place: int) -> None:
        path = self.datasets[place].path
        if entry.session_id in self._place:
            raise DatasetError(
                f"session {entry.session_id!r} is in {self.dataset_of(entry.session_id).path} and again in {path}: "
                "leave one data set out, or rename the session in its recipe if it is another recording"
            )
        first = self.datasets[0].manifest.sessions[0]
        for name, fix in (
            ("modality", "train one model for each"),
            ("bin_s", "write one again with the other's bin_s"),
        ):
            ours, theirs = getattr(first, name), getattr(entry, name)
            if ours != theirs:
                raise DatasetError(
                    f"{path}: session {entry.session_id!r} has {name} {theirs}, "
                    f"session {first.session_id!r} of {self.datasets[0].path} has {ours}: {fix}"
                )
        self._place[entry.session_id] = place
