"""What a session's units did before a window: their signals in earlier train samples, the recent ones counting most.

Units drift in rate over a recording, and a window of a trial is too short to tell how far one has drifted. Only the
train split is read, whatever the window is of, so that nothing that is held out reaches training or another score.

N windows, T bins, C units.
"""

import math
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from neurochorus.data_shards.corpus import Corpus

BYTES_KEPT = 2**28
"Of the sums of sessions that a process keeps; others are counted again, which reads their train samples."


@dataclass(frozen=True)
class Earlier:
    """What was recorded before each of N windows: a bin counts exp(-bins since then / memory)."""

    sums_NC: np.ndarray
    "Weighted sum of each unit's signal (float32)."
    bins_N: np.ndarray
    "Sum of the weights (float32): how many bins this is worth, 0 where nothing is known."

    @classmethod
    def of(cls, signal_TC: np.ndarray, memory_bins: float) -> "Earlier":
        """Of one window that follows a signal (bins, units), its newest bin last."""
        weight_T = bin_weights(len(signal_TC), memory_bins)
        sums_C = weight_T @ np.asarray(signal_TC, dtype=np.float32)
        return cls(sums_C[None], weight_T.sum(keepdims=True))

    @classmethod
    def of_successive(cls, windows_NTC: np.ndarray, memory_bins: float) -> "Earlier":
        """Of windows (N, bins, units) that follow one another: what came before each is all that is there of it."""
        windows, bins, units = windows_NTC.shape
        return cls.after_each(windows_NTC[:-1], bins * np.arange(1, windows), units, memory_bins)

    @classmethod
    def after_each(cls, signals: Iterable[np.ndarray], ends_K: np.ndarray, units: int, memory_bins: float) -> "Earlier":
        """What is known after none, one, ... all of K signals (bins, units), at the end of each.

        `ends_K`: the bin of the recording after each signal, in order of time; nothing is known of bins between them.
        """
        sums_NC = np.zeros((len(ends_K) + 1, units), dtype=np.float32)
        bins_N, before = np.zeros(len(ends_K) + 1, dtype=np.float32), 0.0
        for place, (signal_TC, end) in enumerate(zip(signals, ends_K, strict=True)):
            own, faded = cls.of(signal_TC, memory_bins), math.exp(-(end - before) / memory_bins)
            sums_NC[place + 1] = faded * sums_NC[place] + own.sums_NC[0]
            bins_N[place + 1] = faded * bins_N[place] + own.bins_N[0]
            before = end
        return cls(sums_NC, bins_N)

    def __getitem__(self, windows: Any) -> "Earlier":
        return Earlier(self.sums_NC[windows], self.bins_N[windows])


@dataclass(frozen=True)
class _SessionSums:
    """Global rows of a session's K train samples, in order of time, and what is known after 0, 1, ... K of them."""

    rows_K: np.ndarray
    ends: np.ndarray
    "The bin of the recording after the last one that is known."
    after: Earlier


class EarlierActivity:
    """Looks up what came before samples of a corpus; sums of a session are made when it is first asked for.

    Time is counted in recorded bins, those of other splits too; what was not recorded, such as the time between trials,
    takes none. May be pickled: it then carries no more than the corpus does.
    """

    def __init__(self, corpus: "Corpus", memory_bins: float):
        """`memory_bins`: time constant, in bins, with which older bins count less; ValueError unless positive."""
        if not memory_bins > 0:
            raise ValueError(f"the memory of earlier activity is {memory_bins} bins; expected a positive number")
        self.corpus, self.memory_bins = corpus, memory_bins
        self._kept: OrderedDict[str, _SessionSums] = OrderedDict()

    def before(self, session_id: str, rows_N: np.ndarray) -> Earlier:
        """What came before samples of a session, which are given by their global rows.

        Raises DatasetError where a train sample cannot be read.
        """
        sums = self._sums(session_id)
        places_N = np.searchsorted(sums.rows_K, rows_N)
        since_N = self.corpus.starts_of(session_id, rows_N) - sums.ends[places_N]
        faded_N = np.exp(-since_N / self.memory_bins).astype(np.float32)
        known = sums.after[places_N]
        return Earlier(known.sums_NC * faded_N[:, None], known.bins_N * faded_N)

    def _sums(self, session_id: str) -> "_SessionSums":
        if session_id not in self._kept:
            self._kept[session_id] = self._count(session_id)
            while len(self._kept) > 1 and sum(one.after.sums_NC.nbytes for one in self._kept.values()) > BYTES_KEPT:
                self._kept.popitem(last=False)
        self._kept.move_to_end(session_id)
        return self._kept[session_id]

    def _count(self, session_id: str) -> "_SessionSums":
        rows_K = self.corpus.rows_of(session_id, "train")
        signals = (self.corpus.read(row, with_meta=False).signal_TC for row in rows_K.tolist())
        ends_K = self.corpus.starts_of(session_id, rows_K) + self.corpus.bins_of(session_id, "train")
        units = len(self.corpus.session(session_id).units)
        after = Earlier.after_each(signals, ends_K, units, self.memory_bins)
        return _SessionSums(rows_K, np.append(0.0, ends_K), after)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_kept": OrderedDict()}


def bin_weights(bins: int, memory_bins: float) -> np.ndarray:
    """Weights (bins,) of the bins before a moment, float32: the newest, which comes last, has 1."""
    return np.exp(-np.arange(bins - 1, -1, -1, dtype=np.float32) / np.float32(memory_bins))


def joined_earlier(parts: Sequence[Earlier | None]) -> Earlier | None:
    """Put those of several sessions one after the other, 0 for units that a session lacks; None where one is None."""
    known = [part for part in parts if part is not None]
    if not known or len(known) < len(parts):
        return None
    units = max(part.sums_NC.shape[1] for part in known)
    sums = [np.pad(part.sums_NC, ((0, 0), (0, units - part.sums_NC.shape[1]))) for part in known]
    return Earlier(np.concatenate(sums), np.concatenate([part.bins_N for part in known]))
