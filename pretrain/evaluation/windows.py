"""Evaluation windows of a data set: stretches of equal length, each read once, in order.

N windows, T bins, C units.
"""

from dataclasses import dataclass

import numpy as np

from neurochorus.data_shards.dataset import Corpus


@dataclass(frozen=True)
class Windows:
    """Windows of one session; `unit_ids` names the columns, `keys` the sample each window was cut from."""

    signal_NTC: np.ndarray
    keys: list[str]
    unit_ids: list[str]
    skipped_samples: int
    """Samples shorter than a window."""


def read_windows(corpus: Corpus, session_id: str, split: str, bins: int) -> Windows:
    """Cut every sample of a split into consecutive windows of `bins` bins, from its start; a rest is left out.

    Raises ValueError when no sample is long enough.
    """
    entry = corpus.session(session_id)
    pieces: list[np.ndarray] = []
    keys: list[str] = []
    skipped = 0
    rows = corpus.rows_of(session_id, split)
    for row in rows:
        sample = corpus.read(row, with_meta=False)
        count = len(sample.signal_TC) // bins
        skipped += count == 0
        for number in range(count):
            pieces.append(sample.signal_TC[number * bins : (number + 1) * bins])
            keys.append(sample.key if count == 1 else f"{sample.key}+{number * bins}")
    if not len(rows):
        raise ValueError(
            f"session {session_id!r}: has no {split} samples (baselines need train and valid ones beside those of the "
            "split that is evaluated): write the data set with other split fractions, or leave the session out"
        )
    if not pieces:
        raise ValueError(
            f"session {session_id!r}: none of its {len(rows)} {split} samples has {bins} bins (context + horizon): "
            "ask for a shorter context or horizon, or another split"
        )
    return Windows(np.stack(pieces), keys, entry.unit_ids, skipped)
