"""Several data set directories read as one, in bins of one width."""

import bisect
import hashlib
import itertools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from neurochorus.data_shards.blocks import Block, read_block
from neurochorus.data_shards.dataset import DatasetError, Sample, ShardDataset
from neurochorus.data_shards.earlier import EarlierActivity
from neurochorus.data_shards.manifest import SessionEntry
from neurochorus.data_shards.naming import nearest_hint
from neurochorus.data_shards.rebinning import (
    rebinned_covariates,
    rebinned_entry,
    rebinned_signal,
    rebinning_factor,
)
from neurochorus.data_shards.recording import SPLITS

MUST_AGREE = ("unit_hash", "subject_id", "bin_s", "modality")
"What two data sets must say alike of a session that is in both."


class Corpus:
    """Several data sets as one. A sample has one global row: the data sets' rows, one set after the other.

    With `bin_s` every session is read in bins of that width, a whole number of stored bins each; entries, lengths and
    samples are then those of the wider bins. A session that two data sets hold is read from the first one, if both say
    the same of it. Raises DatasetError where they do not, for mixed modalities and for different bin widths.
    """

    def __init__(
        self, paths: str | Path | ShardDataset | Sequence[str | Path | ShardDataset], bin_s: float | None = None
    ):
        listed = [paths] if isinstance(paths, (str, Path, ShardDataset)) else list(paths)
        if not listed:
            raise DatasetError("no data set was given: set data.path to one or more data set directories")
        self.datasets = [item if isinstance(item, ShardDataset) else ShardDataset(item) for item in listed]
        self._asked_bin_s = bin_s
        self._first_rows = list(itertools.accumulate((len(dataset) for dataset in self.datasets), initial=0))
        self._place: dict[str, int] = {}
        self._factor: dict[str, int] = {}
        self._entries: dict[str, SessionEntry] = {}
        self._earlier: dict[float, EarlierActivity] = {}
        self.repeated: dict[str, Path | str] = {}
        "Session id -> the data set that it was left out of, being in an earlier one."
        for place, dataset in enumerate(self.datasets):
            for entry in dataset.manifest.sessions:
                self._add(entry, place)
        self.sessions = list(self._entries.values())

    def __len__(self) -> int:
        """Samples of all data sets, sessions and splits."""
        return self._first_rows[-1]

    def __reduce__(self) -> tuple[Any, ...]:
        return Corpus, (self.datasets, self._asked_bin_s)

    def with_datasets(self, more: Sequence[ShardDataset]) -> "Corpus":
        """Return a corpus that reads further data sets too, after its own."""
        return Corpus([*self.datasets, *more], self._asked_bin_s)

    @property
    def modality(self) -> str:
        """`spikes` or `continuous`."""
        return self.sessions[0].modality

    @property
    def bin_s(self) -> float:
        """Width of a bin in seconds, as samples are read."""
        return self.sessions[0].bin_s

    def session(self, session_id: str) -> SessionEntry:
        """Return what is known of a session; an unknown id is a ValueError with the nearest ones."""
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

    def factor_of(self, session_id: str) -> int:
        """Return how many stored bins make one bin of a session as it is read."""
        return self._factor[session_id]

    def rows_of(self, session_id: str, split: str) -> np.ndarray:
        """Return the global rows of one session in one split (train, valid, test), in order of time (int64)."""
        rows = self.dataset_of(session_id).rows_of(session_id, split)
        return rows + self._first_rows[self._place[session_id]]

    def bins_of(self, session_id: str, split: str) -> np.ndarray:
        """Return the bins (int64) of the samples of one session in one split, in order of time."""
        dataset = self.dataset_of(session_id)
        return dataset.index.bins[dataset.rows_of(session_id, split)].astype(np.int64) // self._factor[session_id]

    def starts_of(self, session_id: str, rows_N: np.ndarray) -> np.ndarray:
        """Return where samples of one session start in its recording, in bins as they are read (float64)."""
        return self.dataset_of(session_id).index.start[self._local(session_id, rows_N)] / self._factor[session_id]

    def earlier(self, memory_bins: float) -> EarlierActivity:
        """Return what tells what came before samples; its sums are kept for the next who asks."""
        if memory_bins not in self._earlier:
            corpus: Any = self  # type checkers meet this class under two names
            self._earlier[memory_bins] = EarlierActivity(corpus, memory_bins)
        return self._earlier[memory_bins]

    def stored_bins_after(self, session_id: str, rows_N: np.ndarray, stops_N: np.ndarray) -> np.ndarray:
        """Return how many stored bins samples of one session have after bin stops_N[i]."""
        stored_N = self.dataset_of(session_id).index.bins[self._local(session_id, rows_N)]
        return stored_N - stops_N * self._factor[session_id]

    def read(self, row: int, with_meta: bool = True) -> Sample:
        """Read the sample with a global row; see ShardDataset.read. Its meta is that of the stored bins."""
        if not 0 <= row < len(self):
            raise IndexError(f"row {row} of {len(self)} samples")
        place = bisect.bisect_right(self._first_rows, row) - 1
        sample = self.datasets[place].read(row - self._first_rows[place], with_meta)
        factor = self._factor[sample.session_id]
        if factor == 1:
            return sample
        covariates_TK = sample.covariates_TK
        return sample._replace(
            signal_TC=rebinned_signal(sample.signal_TC[None], factor)[0],
            covariates_TK=None if covariates_TK is None else rebinned_covariates(covariates_TK[None], factor)[0],
        )

    def read_block(
        self,
        session_id: str,
        rows_N: np.ndarray,
        starts_N: np.ndarray,
        lengths_N: np.ndarray,
        shifts_N: np.ndarray | int = 0,
        covariates: bool = True,
        earlier: EarlierActivity | None = None,
    ) -> Block:
        """Read stretches of samples of one session side by side: window i is lengths_N[i] bins from bin starts_N[i].

        `shifts_N` moves each one to the right by so many stored bins, which must still lie in its sample. With
        `earlier` the block also tells what came before the samples. Checks and errors as of `read`.
        """
        dataset, factor = self.dataset_of(session_id), self._factor[session_id]
        local_N = self._local(session_id, rows_N)
        block = read_block(dataset, local_N, starts_N * factor + shifts_N, lengths_N * factor, covariates)
        block = block if factor == 1 else _rebinned(block, factor)
        return block if earlier is None else replace(block, earlier=earlier.before(session_id, rows_N))

    def hash(self) -> str:
        """Return 16 hex digits that change with the contents of any data set, their order, and the width of bins."""
        joined = "\n".join(dataset.manifest_hash for dataset in self.datasets)
        rebinned = "" if set(self._factor.values()) == {1} else f"\n{self.bin_s!r}"
        return hashlib.sha256((joined + rebinned).encode()).hexdigest()[:16]

    def _local(self, session_id: str, rows_N: np.ndarray) -> np.ndarray:
        """Rows of a session within its data set."""
        return rows_N - self._first_rows[self._place[session_id]]

    def _add(self, entry: SessionEntry, place: int) -> None:
        path = self.datasets[place].path
        if entry.session_id in self._place:
            self._refuse_another(entry, place)
            self.repeated[entry.session_id] = path
            return
        try:
            factor = rebinning_factor(entry, self._asked_bin_s)
        except ValueError as error:
            raise DatasetError(f"{path}: {error}") from None
        read = rebinned_entry(entry, factor)
        first = next(iter(self._entries.values()), read)
        for name, fix in (
            ("modality", "train one model for each"),
            ("bin_s", "set data.bin_s to a width that both make up, or write one again with the other's bin_s"),
        ):
            ours, theirs = getattr(first, name), getattr(read, name)
            if ours != theirs:
                raise DatasetError(
                    f"{path}: session {entry.session_id!r} has {name} {theirs}, "
                    f"session {first.session_id!r} of {self.datasets[0].path} has {ours}: {fix}"
                )
        self._entries[entry.session_id] = read
        self._place[entry.session_id], self._factor[entry.session_id] = place, factor
        if not any(self.bins_of(entry.session_id, split).any() for split in SPLITS):
            raise DatasetError(
                f"{path}: no sample of session {entry.session_id!r} is as long as one bin of {read.bin_s:g} s: "
                "make data.bin_s smaller, or leave the session out"
            )

    def _refuse_another(self, entry: SessionEntry, place: int) -> None:
        """Raise DatasetError where the session of the same id in an earlier data set is not the same."""
        earlier = self.dataset_of(entry.session_id)
        ours = earlier.manifest.session(entry.session_id)
        differing = [name for name in MUST_AGREE if getattr(ours, name) != getattr(entry, name)]
        if differing:
            what = ", ".join(f"{name} {getattr(ours, name)} and {getattr(entry, name)}" for name in differing)
            raise DatasetError(
                f"session {entry.session_id!r} is in {earlier.path} and again in {self.datasets[place].path}, with "
                f"{what}: leave one data set out, or rename the session in its recipe if it is another recording"
            )
        found = _samples_of(self.datasets[place], entry.session_id)
        if not np.array_equal(_samples_of(earlier, entry.session_id), found):
            raise DatasetError(
                f"session {entry.session_id!r} is in {earlier.path} and again in {self.datasets[place].path}, with "
                "other samples or another split: what one holds out would be trained on; leave one data set out"
            )


def _samples_of(dataset: ShardDataset, session_id: str) -> np.ndarray:
    """What the index says of the samples of a session, and their checksums (N, 5), in order of time."""
    rows = np.concatenate([dataset.rows_of(session_id, split) for split in SPLITS])
    columns = [getattr(dataset.index, name)[rows] for name in ("start", "bins", "split", "segment", "signal_crc32")]
    return np.stack([column.astype(np.int64) for column in columns], axis=1)[np.argsort(columns[0], kind="stable")]


def _rebinned(block: Block, factor: int) -> Block:
    values_NTK = block.covariates_NTK
    return Block(
        block.session_id,
        block.keys,
        rebinned_signal(block.signal_NTC, factor),
        block.bins_N // factor,
        None if values_NTK is None else rebinned_covariates(values_NTK, factor),
    )
