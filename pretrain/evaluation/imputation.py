"""Measuring imputation: entries of held-out recordings are hidden on purpose, filled in, and compared.

Hidden units (co-smoothing): the units of a session are cut into folds, and each fold is hidden from whole windows
while the others are read. Hidden bins: one stretch in the middle of every window is hidden for all units. Rates are
means over samples; scores are pooled over all hidden entries of a session.
N windows, T bins, C units, S samples.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from neurochorus.data_shards.corpus import Corpus
from neurochorus.data_shards.settings import at_least, settings
from neurochorus.models import NeuralModel
from neurochorus.pretrain.covariates import refuse_other_widths
from neurochorus.pretrain.evaluation.forecaster import usual_values
from neurochorus.pretrain.evaluation.imputation_baselines import Interpolation, OtherUnitsRidge
from neurochorus.pretrain.evaluation.metrics import bits_per_spike, central_coverage, r2
from neurochorus.pretrain.evaluation.missing_data import PartlyObserved, imputed, whole_windows
from neurochorus.pretrain.evaluation.windows import read_windows

DEFINITIONS = {
    "bits_per_spike": "(NLL(null) - NLL(model)) / (spikes ln 2), pooled over the hidden entries of a session; null: "
    "each unit's mean over them (NLB). Rates are means over samples.",
    "r2": "1 - residual / total sum of squares over the hidden entries of each unit, averaged over units. Values are "
    "means over samples.",
}
COVERAGE_LEVEL = 0.9
WINDOWS_AT_ONCE = 16
IMPUTED = "imputed"
Progress = Callable[[str], None]


@settings
class HidingSettings:
    window_bins: int
    """Windows are cut to this length."""
    gap_bins: int
    """Bins hidden in the middle of a window."""
    unit_folds: int = 5
    """Each of these many parts of the units is hidden once."""
    windows: int | None = None
    """Windows of a session to use at most; null: all."""
    samples: int = 32

    def problems(self) -> list[str]:
        found = at_least(self, 2, "unit_folds", "samples") + at_least(self, 1, "gap_bins")
        if not self.gap_bins < self.window_bins:
            found.append(f"gap_bins: {self.gap_bins} leave nothing of windows of {self.window_bins} bins")
        return found + (at_least(self, 1, "windows") if self.windows is not None else [])

    @property
    def gap(self) -> tuple[int, int]:
        start = (self.window_bins - self.gap_bins) // 2
        return start, start + self.gap_bins


@dataclass(frozen=True)
class _Part:
    """One way of hiding, in one session: value of each row, and how the samples of the counts fared."""

    rows: dict[str, float]
    coverage: float
    effective: float
    "Mean effective number of particles; NaN without gaps."


def score_imputation(
    model: NeuralModel,
    corpus: Corpus,
    sessions: Sequence[str],
    split: str,
    hiding: HidingSettings,
    seed: int = 0,
    progress: Progress = lambda session: None,
    **imputation: Any,
) -> dict[str, Any]:
    """Results for hidden units and hidden bins beside baselines, as plain values; `imputation`: `ImputationSettings`.

    Baselines are fitted on the train split, their settings chosen on the valid split. Raises ValueError for sessions
    that the model does not know or knows with other units, and for windows that do not fit.
    """
    units, bins, about = {}, {}, {}
    for session_id in sessions:
        progress(session_id)
        entry = corpus.session(session_id)
        model.registry.rows(entry)
        refuse_other_widths([entry], model.config.dynamics.covariate_columns)
        names = model.config.dynamics.covariates
        read = [read_windows(corpus, session_id, name, hiding.window_bins, names) for name in ("train", "valid", split)]
        train_NTC, valid_NTC = (windows.signal_NTC for windows in read[:2])
        data = whole_windows(model, session_id, read[2].chosen(slice(hiding.windows)))
        try:
            units[session_id] = _hidden_units(model, data, train_NTC, valid_NTC, hiding, seed, imputation)
            bins[session_id] = _hidden_bins(model, data, train_NTC, valid_NTC, hiding, seed, imputation)
        except ValueError as error:
            named = f"session {session_id!r}"
            raise error if named in str(error) else ValueError(f"{named}: {error}") from error
        about[session_id] = {"subject": entry.subject_id, "windows": len(data.keys), "units": len(data.unit_ids)}
    metric = "bits_per_spike" if corpus.modality == "spikes" else "r2"
    return {
        "head": model.config.head,
        "modality": corpus.modality,
        "split": split,
        "seed": seed,
        "samples": hiding.samples,
        "window_bins": hiding.window_bins,
        "gap": list(hiding.gap),
        "unit_folds": hiding.unit_folds,
        "imputation": imputation,
        "hidden_units": _table(metric, units),
        "hidden_bins": _table(metric, bins),
        "sessions": about,
    }


def _hidden_units(
    model: NeuralModel,
    data: PartlyObserved,
    train_NTC: np.ndarray,
    valid_NTC: np.ndarray,
    hiding: HidingSettings,
    seed: int,
    imputation: dict[str, Any],
) -> _Part:
    signal_NTC, modality = data.recorded_BTC, model.modality
    count = len(data.unit_ids)
    if count < hiding.unit_folds:
        raise ValueError(
            f"session {data.session_id!r} has {count} units, fewer than {hiding.unit_folds} folds: ask for fewer folds"
        )
    fold_C = np.random.default_rng(seed).permutation(count) % hiding.unit_folds
    rows = {name: np.empty(signal_NTC.shape) for name in (IMPUTED, "ridge from the other units")}
    covered = []
    for fold in range(hiding.unit_folds):
        hidden_C = fold_C == fold
        hidden = data.hiding(units=[unit for unit, is_hidden in zip(data.unit_ids, hidden_C) if is_hidden])
        for chunk, mean_NTC, counts_SNTC, _ in _imputed(model, hidden, hiding.samples, seed, imputation):
            rows[IMPUTED][chunk][:, :, hidden_C] = mean_NTC[:, :, hidden_C]
            covered.append((counts_SNTC[..., hidden_C], signal_NTC[chunk][:, :, hidden_C]))
        ridge = OtherUnitsRidge(modality, train_NTC, valid_NTC, hidden_C)
        rows["ridge from the other units"][:, :, hidden_C] = ridge.predict(signal_NTC)
    rows["train mean"] = np.broadcast_to(usual_values(modality, train_NTC), signal_NTC.shape)
    return _Part(_measured(modality, signal_NTC, rows), _coverage(covered), float("nan"))


def _hidden_bins(
    model: NeuralModel,
    data: PartlyObserved,
    train_NTC: np.ndarray,
    valid_NTC: np.ndarray,
    hiding: HidingSettings,
    seed: int,
    imputation: dict[str, Any],
) -> _Part:
    signal_NTC, modality, (start, stop) = data.recorded_BTC, model.modality, hiding.gap
    wanted_NGC = signal_NTC[:, start:stop]
    rows = {name: np.empty(wanted_NGC.shape) for name in (IMPUTED, "forecast from the left")}
    covered, effective = [], []
    for chunk, mean_NTC, counts_SNTC, gaps in _imputed(
        model, data.hiding(bins=[hiding.gap]), hiding.samples, seed, imputation
    ):
        rows[IMPUTED][chunk] = mean_NTC[:, start:stop]
        covered.append((counts_SNTC[:, :, start:stop], wanted_NGC[chunk]))
        effective += gaps
    # hidden to the end of the window, so that nothing after the gap is read
    for chunk, mean_NTC, _, _ in _imputed(
        model, data.hiding(bins=[(start, hiding.window_bins)]), hiding.samples, seed, imputation
    ):
        rows["forecast from the left"][chunk] = mean_NTC[:, start:stop]
    rows["interpolation"] = Interpolation(modality, train_NTC, valid_NTC, hiding.gap).predict(signal_NTC)
    rows["train mean"] = np.broadcast_to(usual_values(modality, train_NTC), wanted_NGC.shape)
    return _Part(_measured(modality, wanted_NGC, rows), _coverage(covered), float(np.mean(effective)))


def _imputed(
    model: NeuralModel, data: PartlyObserved, samples: int, seed: int, imputation: dict[str, Any]
) -> Iterator[tuple[slice, np.ndarray, np.ndarray, list[float]]]:
    """For each chunk of windows: mean rates (N, T, C), counts (S, N, T, C), and the effective particles of each gap."""
    for first in range(0, len(data.keys), WINDOWS_AT_ONCE):
        chunk = slice(first, first + WINDOWS_AT_ONCE)
        given = {name: values[chunk] for name, values in data.covariates.items()}
        part = PartlyObserved(
            data.session_id,
            data.recorded_BTC[chunk],
            data.observed_BTC[chunk],
            data.keys[chunk],
            data.unit_ids,
            given,
            None if data.earlier is None else data.earlier[chunk],
        )
        made = imputed(model, part, samples, seed, **imputation)
        effective = [gap.effective for gap in made.gaps]
        yield chunk, made.mean_rate.cpu().numpy(), made.counts.cpu().numpy(), effective


def _measured(modality: str, signal: np.ndarray, rows: dict[str, np.ndarray]) -> dict[str, float]:
    measure = bits_per_spike if modality == "spikes" else r2
    return {name: measure(signal, rates) for name, rates in rows.items()}


def _coverage(parts: list[tuple[np.ndarray, np.ndarray]]) -> float:
    """Share of the hidden entries inside the central interval of the samples of the observation."""
    shares = [central_coverage(recorded, sampled, COVERAGE_LEVEL) for sampled, recorded in parts]
    return float(np.average(shares, weights=[recorded.size for _, recorded in parts]))


def _table(metric: str, parts: dict[str, _Part]) -> dict[str, Any]:
    """Rows with the value of each session and their mean, and the coverage of the imputed one."""
    rows: dict[str, Any] = {}
    for row in next(iter(parts.values())).rows:
        values = {session: part.rows[row] for session, part in parts.items()}
        numbers = np.array(list(values.values()))
        sem = float(numbers.std(ddof=1) / len(numbers) ** 0.5) if len(numbers) > 1 else None
        rows[row] = {"mean": float(numbers.mean()), "sem": sem, "sessions": values}
    effective = float(np.mean([part.effective for part in parts.values()]))
    return {
        "metric": metric,
        "definition": DEFINITIONS[metric],
        "rows": rows,
        "coverage": {
            "level": COVERAGE_LEVEL,
            "mean": float(np.mean([part.coverage for part in parts.values()])),
            "sessions": {session: part.coverage for session, part in parts.items()},
            "definition": "share of the hidden entries inside the central interval of the samples of counts or values",
        },
        "effective_particles": None if np.isnan(effective) else effective,
    }
