"""A share of the samples of some sessions, as if no more had been recorded: what a model learns from little data.

The samples of a session and split are put in an order that depends on (seed, session, split) alone, and the first ones
are taken: 10 % are a subset of 25 %, whatever the ranks, the workers and the other sessions. Train and valid samples
are thinned, test samples never. Statistics of units are those of the chosen train samples.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from neurochorus.data_shards.corpus import Corpus
from neurochorus.data_shards.dataset import ShardDataset
from neurochorus.data_shards.manifest import SessionEntry
from neurochorus.data_shards.plan import keyed_permutation

THINNED_SPLITS = ("train", "valid")


class ThinnedCorpus(Corpus):
    """A corpus that holds only `fraction` of the train and valid samples of the sessions named; the others are whole.

    At least one sample that is not empty is left of each split that has any. Entries of thinned sessions tell means,
    sds and bins of what is left, so that nothing of the rest leaks into a model. Raises as `Corpus`.
    """

    def __init__(
        self,
        paths: str | Path | ShardDataset | Sequence[str | Path | ShardDataset],
        bin_s: float | None,
        sessions: Iterable[str],
        fraction: float,
        seed: int = 0,
        known: Mapping[str, SessionEntry] | None = None,
    ):
        """`known`: entries that were counted already, by session id."""
        super().__init__(paths, bin_s)
        if not 0 < fraction <= 1:
            raise ValueError(f"data.fraction is {fraction}; expected a share above 0, at most 1")
        self.fraction, self.fraction_seed = fraction, seed
        self.thinned = {name: known.get(name) if known else None for name in sessions}
        for session_id, entry in self.thinned.items():
            self.dataset_of(session_id)
            self._entries[session_id] = self._counted(session_id) if entry is None else entry
            self.thinned[session_id] = self._entries[session_id]
        self.sessions = list(self._entries.values())

    def __reduce__(self) -> tuple[Any, ...]:
        entries = {name: self._entries[name] for name in self.thinned}
        return ThinnedCorpus, (
            self.datasets,
            self._asked_bin_s,
            list(self.thinned),
            self.fraction,
            self.fraction_seed,
            entries,
        )

    def with_datasets(self, more: Sequence[ShardDataset]) -> "ThinnedCorpus":
        entries = {name: self._entries[name] for name in self.thinned}
        joined = [*self.datasets, *more]
        return ThinnedCorpus(joined, self._asked_bin_s, list(entries), self.fraction, self.fraction_seed, entries)

    def rows_of(self, session_id: str, split: str) -> np.ndarray:
        rows = super().rows_of(session_id, split)
        return rows[self._chosen(session_id, split)]

    def bins_of(self, session_id: str, split: str) -> np.ndarray:
        bins = super().bins_of(session_id, split)
        return bins[self._chosen(session_id, split)]

    def _chosen(self, session_id: str, split: str) -> np.ndarray | slice:
        """Places of the samples that are left among those of the split, in order of time."""
        if split not in THINNED_SPLITS or session_id not in getattr(self, "thinned", ()):
            return slice(None)
        bins = super().bins_of(session_id, split)
        places = np.flatnonzero(bins)
        if not len(places):
            return slice(0, 0)
        order = keyed_permutation(len(places), self.fraction_seed, "fraction", session_id, split)
        return np.sort(places[order[: max(1, round(self.fraction * len(places)))]])

    def _counted(self, session_id: str) -> SessionEntry:
        """The entry with statistics of the chosen train samples. Raises ValueError when there is none."""
        entry = self._entries[session_id]
        rows, lengths = self.rows_of(session_id, "train"), self.bins_of(session_id, "train")
        if not len(rows):
            raise ValueError(f"session {session_id!r}: has no train samples to take {self.fraction:g} of: exclude it")
        sums, squares = np.zeros(len(entry.units)), np.zeros(len(entry.units))
        for row in rows.tolist():
            signal_TC = self.read(row, with_meta=False).signal_TC.astype(np.float64)
            sums += signal_TC.sum(axis=0)
            squares += np.square(signal_TC).sum(axis=0)
        bins = int(lengths.sum())
        mean = sums / bins
        sd = np.sqrt(np.maximum(squares / bins - mean**2, 0.0))
        return replace(entry, unit_mean=mean, unit_sd=sd, train_bins=bins)
