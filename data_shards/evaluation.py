"""Batches for evaluation: every window of a split once, over all ranks, in the order of sessions and of time."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from neurochorus.data_shards.batch import Batch, Collate, covariate_widths
from neurochorus.data_shards.corpus import Corpus
from neurochorus.data_shards.earlier import EarlierActivity
from neurochorus.data_shards.registry import UnitRegistry
from neurochorus.data_shards.windows import evaluation_starts


def evaluation_batches(
    corpus: Corpus,
    registry: UnitRegistry,
    split: str,
    sessions: Sequence[str] | None = None,
    batch_size: int = 64,
    window_bins: int | None = None,
    covariates: Mapping[str, int] | Sequence[str] = (),
    *,
    stride: int | None = None,
    earlier_memory: float | None = None,
    rank: int = 0,
    world: int = 1,
) -> Iterator[Batch]:
    """Return this rank's share of all windows of a split, session by session (None: all sessions), in order of time.

    Windows are of `window_bins` bins (None: whole samples), every `stride` bins of a sample (None: side by side) to its
    end, the last one shorter; one rank gets each. A batch is of one session, has at most `batch_size` windows and is
    padded to the longest. Every rank gets equally many batches, so that all can take part in collectives: a surplus one
    has no sample id, and one sample that is masked throughout. `earlier_memory`: as of `training_batches`. Raises
    ValueError, before reading anything, for sessions that corpus or registry refuse and for numbers that make no sense.
    """
    if batch_size < 1 or (window_bins is not None and window_bins < 1) or (stride is not None and stride < 1):
        raise ValueError(f"batch_size ({batch_size}), window_bins ({window_bins}), stride ({stride}): at least 1 each")
    if not 0 <= rank < world:
        raise ValueError(f"rank {rank} of {world}: ranks count from 0 to world - 1")
    chosen = [entry.session_id for entry in corpus.sessions] if sessions is None else list(sessions)
    widths = covariates if isinstance(covariates, Mapping) else covariate_widths(corpus.sessions, covariates)
    collate = Collate([corpus.session(name) for name in chosen], registry, widths)
    earlier = None if earlier_memory is None else corpus.earlier(earlier_memory)
    return _share(_Cutting(corpus, collate, split, window_bins, stride, batch_size, earlier), chosen, rank, world)


@dataclass(frozen=True)
class _Cutting:
    """How samples become batches."""

    corpus: Corpus
    collate: Collate
    split: str
    window_bins: int | None
    stride: int | None
    batch_size: int
    earlier: EarlierActivity | None

    def windows(self, session_id: str) -> tuple[np.ndarray, ...]:
        """Global row, first bin, bins of every window of a session, and whether it is only part of a sample."""
        rows, bins = self.corpus.rows_of(session_id, self.split), self.corpus.bins_of(session_id, self.split)
        starts = [evaluation_starts(length, self.window_bins, self.stride) for length in bins.tolist()]
        places = np.repeat(np.arange(len(rows)), [len(own) for own in starts])
        first = np.fromiter(itertools.chain.from_iterable(starts), dtype=np.int64, count=len(places))
        longest = bins.max(initial=0) if self.window_bins is None else self.window_bins
        return rows[places], first, np.minimum(bins[places] - first, longest), bins[places] > longest

    def batch(self, session_id: str, windows: tuple[np.ndarray, ...], first: int) -> Batch:
        """The batch of the windows of a session from number `first` on."""
        rows, starts, lengths, cut = (column[first : first + self.batch_size] for column in windows)
        wanted = self.collate.wants_covariates(session_id)
        block = self.corpus.read_block(session_id, rows, starts, lengths, covariates=wanted, earlier=self.earlier)
        return self.collate.join([block.named(starts, cut)])


def _share(cutting: _Cutting, sessions: list[str], rank: int, world: int) -> Iterator[Batch]:
    number = 0
    for session_id in sessions:
        windows = cutting.windows(session_id)
        for first in range(0, len(windows[0]), cutting.batch_size):
            if number % world == rank:
                yield cutting.batch(session_id, windows, first)
            number += 1
    if 0 < number % world <= rank:
        yield cutting.collate.all_padding(sessions[-1], bins=cutting.window_bins or 1)
