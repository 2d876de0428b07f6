"""Measuring a model on a data set: reconstruction and rollout forecasts beside plain baselines.

Forecasts are free-running rollouts, and their rate is the mean over samples. bits/spike is pooled over
units and bins of a session, its null each unit's mean over the evaluated bins (the NLB convention).
N windows, T context bins, H horizon bins, C units, S samples, L latent channels.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from neurochorus.data_shards.corpus import Corpus
from neurochorus.models import NeuralModel
from neurochorus.pretrain.config import ForecastSection
from neurochorus.pretrain.covariates import refuse_other_widths
from neurochorus.pretrain.evaluation.baselines import all_baselines
from neurochorus.pretrain.evaluation.calibration import EnsembleScores
from neurochorus.pretrain.evaluation.calibration_summary import calibration_summary
from neurochorus.pretrain.evaluation.metrics import bits_per_spike, r2
from neurochorus.pretrain.evaluation.recalibration import inflation_factors
from neurochorus.pretrain.evaluation.scored_forecast import batch_of, chunks, latent_scores, scored_forecasts
from neurochorus.pretrain.evaluation.windows import Windows, read_windows

DEFINITIONS = {
    "bits_per_spike": "(NLL(null) - NLL(model)) / (spikes ln 2), pooled over units and bins of a session; null: each "
    "unit's mean over the evaluated bins (NLB). Forecasts are free-running; rates are means over samples.",
    "r2": "1 - residual / total sum of squares for each unit, averaged over units. Forecasts are free-running; values "
    "are means over samples.",
}
Inflation = dict[str, np.ndarray]
"Row -> how much wider its samples have to be, by lead (H,)."


@dataclass(frozen=True)
class SessionResult:
    """What one session gave: the value of each row, and how the samples of each learned row fared."""

    subject: str
    windows: int
    units: int
    forecast: dict[str, float]
    reconstruction: dict[str, float]
    ensembles: dict[str, dict[str, EnsembleScores]]
    "Row -> latents, units, population, recalibrated latents -> scores."


def evaluate(
    model: NeuralModel,
    corpus: Corpus,
    sessions: Sequence[str],
    split: str,
    forecast: ForecastSection,
    seed: int = 0,
    beside: Mapping[str, NeuralModel] | None = None,
    recalibrate: bool = False,
    progress: Callable[[str], None] = lambda session: None,
) -> dict[str, Any]:
    """Results of a model, of the `beside` models (row name -> model) and of the baselines, as plain values.

    Baselines are fitted on the train split, their settings chosen on the valid split. `recalibrate`: also how the
    latents fare with their spread scaled by factors fitted on the valid split. Raises ValueError for
    sessions that a model does not know or knows with other units, and for windows that do not fit.
    """
    models = {model.config.head: model, **(beside or {})}
    if len(models) <= len(beside or {}):
        raise ValueError(f"a model beside is named {model.config.head!r} like the head of the model: name it otherwise")
    inflation: Inflation = {}
    if recalibrate:
        if split == "valid":
            raise ValueError("recalibration is fitted on the valid split: evaluate it on another one, such as test")
        inflation = _fitted_inflation(models, corpus, sessions, forecast, seed, progress)
    results: dict[str, SessionResult] = {}
    for session_id in sessions:
        progress(session_id)
        results[session_id] = _evaluate_session(models, corpus, session_id, split, forecast, seed, inflation)
    metric = "bits_per_spike" if corpus.modality == "spikes" else "r2"
    return {
        "head": model.config.head,
        "modality": corpus.modality,
        "split": split,
        "seed": seed,
        "samples": forecast.samples,
        "context_bins": forecast.context_bins,
        "horizon_bins": forecast.horizon_bins,
        "bin_s": corpus.bin_s,
        "covariates": {name: covariate.known for name, covariate in model.config.dynamics.covariates.items()},
        "forecast": _table(metric, {name: result.forecast for name, result in results.items()}),
        "reconstruction": _table(metric, {name: result.reconstruction for name, result in results.items()}),
        "calibration": calibration_summary(_by_row(results), forecast.samples, inflation),
        "sessions": {
            name: {"subject": result.subject, "windows": result.windows, "units": result.units}
            for name, result in results.items()
        },
    }


def _evaluate_session(
    models: Mapping[str, NeuralModel],
    corpus: Corpus,
    session_id: str,
    split: str,
    forecast: ForecastSection,
    seed: int,
    inflation: Inflation,
) -> SessionResult:
    bins = forecast.context_bins + forecast.horizon_bins
    entry = corpus.session(session_id)
    read = {name for model in models.values() for name in model.config.dynamics.covariates}
    windows = read_windows(corpus, session_id, split, bins, read)
    future = windows.signal_NTC[:, forecast.context_bins :]
    measure = bits_per_spike if corpus.modality == "spikes" else r2
    for model in models.values():
        model.registry.rows(entry)
        refuse_other_widths([entry], model.config.dynamics.covariate_columns)
    rows: dict[str, float] = {}
    ensembles: dict[str, dict[str, EnsembleScores]] = {}
    for name, heads in _heads(models).items():
        made = scored_forecasts(models[name], heads, session_id, windows, forecast, seed, inflation)
        rows |= {row: measure(future, one.rates_NHC) for row, one in made.items()}
        ensembles |= {row: one.scores for row, one in made.items()}
    rows |= _baseline_rows(corpus, session_id, windows, forecast, measure)
    first = next(iter(models.values()))
    return SessionResult(
        subject=entry.subject_id,
        windows=len(windows.keys),
        units=len(windows.unit_ids),
        forecast=rows,
        reconstruction=_reconstruction_rows(first, corpus, session_id, windows, bins, measure),
        ensembles=ensembles,
    )


def _heads(models: Mapping[str, NeuralModel]) -> dict[str, dict[str, str | None]]:
    """Model -> the rows that it makes, and with which head (None: its own); the first model's companion is a row."""
    heads: dict[str, dict[str, str | None]] = {name: {name: None} for name in models}
    name, first = next(iter(models.items()))
    if first.dynamics.companion is not None:
        heads[name]["gaussian head, same backbone"] = "gaussian"
    return heads


def _fitted_inflation(
    models: Mapping[str, NeuralModel],
    corpus: Corpus,
    sessions: Sequence[str],
    forecast: ForecastSection,
    seed: int,
    progress: Callable[[str], None],
) -> Inflation:
    """Factors of every learned row, fitted on the valid split of all sessions together."""
    bins = forecast.context_bins + forecast.horizon_bins
    scores: dict[str, list[EnsembleScores]] = {}
    for session_id in sessions:
        progress(f"{session_id}, valid split")
        for name, heads in _heads(models).items():
            model = models[name]
            windows = read_windows(corpus, session_id, "valid", bins, model.config.dynamics.covariates)
            for row, head in heads.items():
                made = latent_scores(model, head, session_id, windows, forecast, seed)
                scores.setdefault(row, []).append(made)
    return {row: inflation_factors(made, forecast.samples) for row, made in scores.items()}


def _by_row(results: Mapping[str, SessionResult]) -> dict[str, dict[str, dict[str, EnsembleScores]]]:
    """Row -> latents, units, population, recalibrated latents -> session -> scores."""
    first = next(iter(results.values())).ensembles
    return {
        row: {what: {name: result.ensembles[row][what] for name, result in results.items()} for what in parts}
        for row, parts in first.items()
    }


def _baseline_rows(
    corpus: Corpus, session_id: str, windows: Windows, forecast: ForecastSection, measure: Callable[..., float]
) -> dict[str, float]:
    context = forecast.context_bins
    bins = context + forecast.horizon_bins
    train = read_windows(corpus, session_id, "train", bins).signal_NTC
    valid = read_windows(corpus, session_id, "valid", bins).signal_NTC
    future = windows.signal_NTC[:, context:]
    rows = {}
    for name, baseline in all_baselines(corpus.modality).items():
        baseline.fit(train[:, :context], train[:, context:], valid[:, :context], valid[:, context:])
        rows[name] = measure(future, baseline.predict(windows.signal_NTC[:, :context]))
    return rows


def _reconstruction_rows(
    model: NeuralModel, corpus: Corpus, session_id: str, windows: Windows, bins: int, measure: Callable[..., float]
) -> dict[str, float]:
    parts = [model.reconstruct(batch_of(model, session_id, windows, chunk)).cpu().numpy() for chunk in chunks(windows)]
    train_mean = read_windows(corpus, session_id, "train", bins).signal_NTC.mean(axis=(0, 1))
    expected = np.broadcast_to(train_mean, windows.signal_NTC.shape)
    return {
        "autoencoder": measure(windows.signal_NTC, np.concatenate(parts)),
        "train mean": measure(windows.signal_NTC, expected),
    }


def _table(metric: str, values: dict[str, dict[str, float]]) -> dict[str, Any]:
    """Rows with the value of each session, their mean and its standard error over sessions."""
    names = list(next(iter(values.values())))
    rows = {}
    for row in names:
        sessions = {session: float(one[row]) for session, one in values.items()}
        numbers = torch.tensor(list(sessions.values()), dtype=torch.float64)
        sem = float(numbers.std() / len(numbers) ** 0.5) if len(numbers) > 1 else None
        rows[row] = {"mean": float(numbers.mean()), "sem": sem, "sessions": sessions}
    return {"metric": metric, "definition": DEFINITIONS[metric], "rows": rows}
