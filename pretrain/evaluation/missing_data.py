"""Recordings with missing entries as plain arrays: what is to be filled in, and an .npz of what was filled in.

S samples, B recordings (trials or windows), T bins, C units, L latent channels.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from neurochorus.data_shards.corpus import Corpus
from neurochorus.data_shards.earlier import Earlier
from neurochorus.data_shards.naming import nearest_hint
from neurochorus.data_shards.remote import is_directory_or_url
from neurochorus.models import NeuralModel
from neurochorus.models.imputation import Imputation
from neurochorus.pretrain.covariates import refuse_other_widths
from neurochorus.pretrain.evaluation.contexts import DATA, KNOWN, NONE, read_context, refuse_ids_beside
from neurochorus.pretrain.evaluation.output_file import check_output, write_whole
from neurochorus.pretrain.evaluation.windows import Windows, read_windows


@dataclass(frozen=True)
class PartlyObserved:
    """Signals of one session; `observed_BTC` says what the model may read of them, NaN is what nobody recorded."""

    session_id: str
    recorded_BTC: np.ndarray
    observed_BTC: np.ndarray
    keys: list[str]
    unit_ids: list[str]
    covariates: dict[str, np.ndarray] = field(default_factory=dict)
    earlier: Earlier | None = None
    """What came before each recording, for a model that reads it."""

    def hiding(
        self, units: Sequence[str] = (), bins: Sequence[tuple[int, int]] = (), missing: np.ndarray | None = None
    ) -> "PartlyObserved":
        """The same with more of it hidden: units by id, stretches of bins, and where `missing` is true.

        Raises ValueError for an unknown unit, bins outside, and a mask of another shape or that is not bool.
        """
        observed_BTC, total = self.observed_BTC.copy(), self.observed_BTC.shape[1]
        for unit in units:
            if unit not in self.unit_ids:
                raise ValueError(
                    f"session {self.session_id!r} has no unit {unit!r}; {nearest_hint(unit, self.unit_ids, 'units')}"
                )
            observed_BTC[:, :, self.unit_ids.index(unit)] = False
        for start, stop in bins:
            if not 0 <= start < stop <= total:
                raise ValueError(f"bins {start}:{stop}: expected a stretch inside the {total} bins of a recording")
            observed_BTC[:, start:stop] = False
        if missing is not None:
            if missing.dtype != np.bool_ or missing.shape not in (observed_BTC.shape, observed_BTC.shape[1:]):
                raise ValueError(
                    f"the mask of what is missing is {missing.dtype} of shape {missing.shape}; expected bool of shape "
                    f"{observed_BTC.shape}, or {observed_BTC.shape[1:]} for all trials alike, True where missing"
                )
            observed_BTC &= ~missing
        return replace(self, observed_BTC=observed_BTC)


def read_partly_observed(
    model: NeuralModel,
    session_id: str,
    source: str,
    *,
    split: str,
    bins: int | None,
    trials: int | None,
    covariates: str = DATA,
    unit_ids: Sequence[str] | None = None,
) -> PartlyObserved:
    """Recordings of a session from a data set directory, or an .npy of counts (trials, bins, units), NaN where missing.

    `covariates`: data (of a data set, of all bins), none, or an .npz with arrays (trials, bins, columns) by name.
    `unit_ids`: of the columns of an .npy; default: all that the model knows, in its order.
    Raises ValueError for a session the model does not know, other units or covariates, and samples too short.
    """
    for name, value in (("trials", trials), ("bins", bins)):
        if value is not None and value < 1:
            raise ValueError(f"{name}: expected 1 or more, found {value}")
    if covariates == KNOWN:
        raise ValueError(f"covariates {covariates!r}: expected {DATA}, {NONE} or an .npz file that exists")
    if unit_ids is not None:
        refuse_ids_beside(source)
    if is_directory_or_url(source):
        return _from_data_set(model, session_id, source, split, bins, trials, covariates)
    if Path(source).suffix != ".npy":
        raise ValueError(f"data {source!r}: expected a data set directory or an .npy file of counts")
    given = NONE if covariates == DATA else covariates
    context = read_context(
        model,
        session_id,
        source,
        split=split,
        context_bins=bins,
        horizon_bins=1,
        trials=trials,
        covariates=given,
        unit_ids=unit_ids,
    )
    recorded = context.signal_BTC
    if recorded.dtype.kind not in "biuf":
        raise ValueError(f"{source}: an array of {recorded.dtype}; expected numbers, NaN where missing")
    cut = {name: values[:, : recorded.shape[1]] for name, values in context.covariates.items()}
    return PartlyObserved(session_id, recorded, ~np.isnan(recorded), context.keys, context.unit_ids, cut)


def _from_data_set(
    model: NeuralModel,
    session_id: str,
    path: str,
    split: str,
    bins: int | None,
    trials: int | None,
    covariates: str,
) -> PartlyObserved:
    if covariates not in (DATA, NONE):
        raise ValueError("covariates: those of a data set come from itself; give data or none")
    corpus = Corpus(path, model.registry.bin_s)
    entry = corpus.session(session_id)
    model.registry.rows(entry)
    refuse_other_widths([entry], model.config.dynamics.covariate_columns)
    if bins is None:
        rows = corpus.rows_of(session_id, split)
        bins = min((len(corpus.read(row, with_meta=False).signal_TC) for row in rows), default=1)
    names = list(model.config.dynamics.covariates) if covariates == DATA else []
    return whole_windows(model, session_id, read_windows(corpus, session_id, split, bins, names).chosen(slice(trials)))


def whole_windows(model: NeuralModel, session_id: str, windows: Windows) -> PartlyObserved:
    """Windows of a data set with nothing hidden yet."""
    signal, given = windows.signal_NTC, dict(windows.covariates)
    observed = np.ones(signal.shape, dtype=bool)
    return PartlyObserved(session_id, signal, observed, windows.keys, windows.unit_ids, given, windows.earlier(model))


def with_all_units(model: NeuralModel, data: PartlyObserved) -> PartlyObserved:
    """The same with a column for every unit of the session that the model knows; nothing is observed of new ones.

    Of what they did earlier nothing is known either: their slow gains start from their usual rates.
    """
    session = model.registry.session(data.session_id)
    ids = list(session.unit_ids)
    place_C = [ids.index(unit) for unit in data.unit_ids]
    shape = (*data.recorded_BTC.shape[:2], len(ids))
    recorded_BTC, observed_BTC = np.full(shape, np.nan, dtype=np.float32), np.zeros(shape, dtype=bool)
    recorded_BTC[:, :, place_C], observed_BTC[:, :, place_C] = data.recorded_BTC, data.observed_BTC
    earlier = data.earlier
    if earlier is not None:
        rows_C = [session.row_of[unit] for unit in ids]
        usual_C = model.autoencoder.unit_mean[rows_C].cpu().numpy()
        sums_BC = earlier.bins_N[:, None] * usual_C
        sums_BC[:, place_C] = earlier.sums_NC
        earlier = Earlier(sums_BC.astype(np.float32), earlier.bins_N)
    return replace(data, recorded_BTC=recorded_BTC, observed_BTC=observed_BTC, unit_ids=ids, earlier=earlier)


def imputed(model: NeuralModel, data: PartlyObserved, samples: int, seed: int, **settings: Any) -> Imputation:
    """What `NeuralModel.impute` makes of the recordings."""
    signal = np.where(data.observed_BTC, data.recorded_BTC, 0).astype(data.recorded_BTC.dtype)
    batch = model.context(data.session_id, signal, data.unit_ids, data.covariates, data.earlier)
    batch.sample_ids = data.keys
    return model.impute(
        batch.to(model.device), torch.from_numpy(data.observed_BTC).to(model.device), samples, seed, **settings
    )


def arrays_of(model: NeuralModel, data: PartlyObserved, made: Imputation, level: float) -> dict[str, Any]:
    """Arrays for an .npz: samples, their mean and central interval, what was recorded, and what each gap was like.

    `recorded` (B, T, C) is float32 with NaN where nobody recorded; the model read it where `observed` only.
    """
    low, high = made.interval(level)
    gap_type = [("row", "i4"), ("start", "i4"), ("stop", "i4"), ("effective", "f8"), ("weighing_bins", "f8")]
    gaps = np.array([(gap.row, gap.start, gap.stop, gap.effective, gap.weighing_bins) for gap in made.gaps], gap_type)
    return {
        "latents": made.latents.cpu().numpy(),
        "rates": made.rates.cpu().numpy(),
        "counts": made.counts.cpu().numpy().astype(np.uint16 if model.modality == "spikes" else np.float32),
        "mean_rate": made.mean_rate.cpu().numpy(),
        "rate_low": low.cpu().numpy(),
        "rate_high": high.cpu().numpy(),
        "level": np.array(level),
        "recorded": data.recorded_BTC.astype(np.float32),
        "observed": data.observed_BTC,
        **{f"gap_{name}": gaps[name] for name, _ in gap_type},
        "unit_ids": np.array(data.unit_ids),
        "sample_ids": np.array(data.keys),
        "session_id": np.array(data.session_id),
        "modality": np.array(model.modality),
    }


def write_imputed(path: Path, arrays: dict[str, Any]) -> Path:
    """Write an .npz (no pickle), whole or not at all. Raises ValueError for another file ending."""
    write_whole(check_output(path, ".npz"), lambda file: np.savez_compressed(file, **arrays))
    return path
