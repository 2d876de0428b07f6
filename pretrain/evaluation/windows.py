"""Evaluation windows of a data set: stretches of equal length, in order.

N windows, T bins, C units.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from neurochorus.data_shards.corpus import Corpus
from neurochorus.data_shards.earlier import Earlier
from neurochorus.models import NeuralModel


@dataclass(frozen=True)
class Windows:
    """Windows of one session; `unit_ids` names the columns, `keys` the sample each window was cut from."""

    signal_NTC: np.ndarray
    keys: list[str]
    unit_ids: list[str]
    skipped_samples: int
    """Samples shorter than a window."""
    covariates: dict[str, np.ndarray] = field(default_factory=dict)
    """Those asked for that the session has: float32 (N, T, columns), NaN where missing."""
    past: "WindowsPast | None" = None
    """Tells what came before them; None for windows that are of no data set."""

    def earlier(self, model: NeuralModel) -> Earlier | None:
        """What came before each window, for a model that reads it."""
        memory_bins = model.config.autoencoder.earlier_memory_bins
        return None if memory_bins is None or self.past is None else self.past.within(memory_bins)

    def chosen(self, places: np.ndarray | slice) -> "Windows":
        """Those at the given places, in that order."""
        return replace(
            self,
            signal_NTC=self.signal_NTC[places],
            keys=np.array(self.keys, dtype=object)[places].tolist(),
            covariates={name: values[places] for name, values in self.covariates.items()},
            past=None if self.past is None else replace(self.past, rows_N=self.past.rows_N[places]),
        )


@dataclass(frozen=True)
class WindowsPast:
    """Which samples windows of a session were cut from, by global row."""

    corpus: Corpus
    session_id: str
    rows_N: np.ndarray

    def within(self, memory_bins: float) -> Earlier:
        return self.corpus.earlier(memory_bins).before(self.session_id, self.rows_N)


def read_windows(
    corpus: Corpus,
    session_id: str,
    split: str,
    bins: int,
    covariates: Collection[str] = (),
    stride_bins: int | None = None,
) -> Windows:
    """Cut every sample of a split into windows of `bins` bins, from its start; a rest is left out.

    `stride_bins` apart within a sample; None: as long as they are, so that they do not overlap.
    `covariates` names those to cut along with the signal; one that the session lacks is left out. Raises ValueError
    when no sample is long enough.
    """
    entry, stride = corpus.session(session_id), stride_bins or bins
    pieces: list[np.ndarray] = []
    cut_from: list[int] = []
    keys: list[str] = []
    wanted = {name: columns for name, columns in entry.covariate_slices.items() if name in covariates}
    cut: dict[str, list[np.ndarray]] = {name: [] for name in wanted}
    skipped = 0
    rows = corpus.rows_of(session_id, split)
    for row in rows.tolist():
        sample = corpus.read(row, with_meta=False)
        count = max(0, (len(sample.signal_TC) - bins) // stride + 1)
        skipped += count == 0
        for number in range(count):
            window = slice(number * stride, number * stride + bins)
            pieces.append(sample.signal_TC[window])
            cut_from.append(row)
            for name, columns in wanted.items():
                assert sample.covariates_TK is not None
                cut[name].append(sample.covariates_TK[window, columns])
            keys.append(sample.key if count == 1 else f"{sample.key}+{number * stride}")
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
    stacked = {name: np.stack(values) for name, values in cut.items()}
    past = WindowsPast(corpus, session_id, np.array(cut_from))
    return Windows(np.stack(pieces), keys, entry.unit_ids, skipped, stacked, past)


def known_to_forecast(
    model: NeuralModel, covariates: Mapping[str, np.ndarray], context_bins: int | None
) -> dict[str, np.ndarray]:
    """What a forecast may read of covariates (N, context and horizon, columns), for `NeuralModel.context`.

    Those known ahead whole, behaviour (`past`) over the context only (None: all bins are context). Those that the model
    does not read are left out.
    """
    return {
        name: covariates[name][:, : None if covariate.known == "ahead" else context_bins]
        for name, covariate in model.config.dynamics.covariates.items()
        if name in covariates
    }
