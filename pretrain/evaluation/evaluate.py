"""Measuring a model on a data set: reconstruction and rollout forecasts beside plain baselines.

Forecasts are free-running rollouts, and their rate is the mean over samples. bits/spike is pooled over
units and bins of a session, its null each unit's mean over the evaluated bins (the NLB convention).
N windows, T context bins, H horizon bins, C units, S samples, L latent channels.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from neurochorus.data_shards.corpus import Corpus
from neurochorus.models import NeuralModel
from neurochorus.pretrain.config import ForecastSection
from neurochorus.pretrain.covariates import refuse_other_widths
from neurochorus.pretrain.evaluation.baseline_forecasts import baseline_forecasts, memory_of
from neurochorus.pretrain.evaluation.calibration import EnsembleScores
from neurochorus.pretrain.evaluation.calibration_summary import calibration_summary, score_tables
from neurochorus.pretrain.evaluation.metrics import bits_per_spike, r2
from neurochorus.pretrain.evaluation.recalibration import inflation_factors
from neurochorus.pretrain.evaluation.scored_forecast import latent_scores, scored_forecasts
from neurochorus.pretrain.evaluation.suite.horizons import leads_within
from neurochorus.pretrain.evaluation.suite.run import ScoredRates, Suite
from neurochorus.pretrain.evaluation.suite.session_data import SessionData
from neurochorus.pretrain.evaluation.suite.settings import SuiteSettings
from neurochorus.pretrain.evaluation.suite.tables import finite, mean_and_sem
from neurochorus.pretrain.evaluation.windows import read_windows

DEFINITIONS = {
    "bits_per_spike": "(NLL(null) - NLL(model)) / (spikes ln 2), pooled over units and bins of a session; null: each "
    "unit's mean over the evaluated bins (NLB). Forecasts are free-running; rates are means over samples with a share "
    "(model.dynamics.usual_share) of the unit's mean over its train split.",
    "r2": "1 - residual / total sum of squares for each unit, averaged over units. Forecasts are free-running; values "
    "are means over samples.",
}
AUTOENCODER = "autoencoder"
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
    why_no_psth: str | None


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
    suite: Collection[str] = (),
    suite_settings: SuiteSettings | None = None,
) -> dict[str, Any]:
    """Results of a model, of the `beside` models (row name -> model) and of the baselines, as plain values.

    With models beside there is a forecast row more, the mean of the rates of all models with their own heads.
    Baselines are fitted on the train split, their settings chosen on the valid split. `recalibrate`: also how the
    latents fare with their spread scaled by factors fitted on the valid split. `suite`: further parts to measure
    (`suite.settings.SUITES`, or `all`). Sessions in which a score per spike is not defined are left out, and named.
    Raises ValueError for sessions that a model does not know or knows with other units, for windows that do not fit,
    and where no session is left.
    """
    models = {model.config.head: model, **(beside or {})}
    if len(models) <= len(beside or {}):
        raise ValueError(f"a model beside is named {model.config.head!r} like the head of the model: name it otherwise")
    inflation = _fitted_inflation(models, corpus, sessions, split, forecast, seed, progress) if recalibrate else {}
    results: dict[str, SessionResult] = {}
    left_out: dict[str, str] = {}
    rows = {row: (models[name], head) for name, heads in _heads(models).items() for row, head in heads.items()}
    measured = Suite(models, rows, suite, suite_settings)
    if "horizons" in measured.names:
        leads_within(measured.settings.leads_bins, forecast.horizon_bins)
    for session_id in sessions:
        progress(session_id)
        data = SessionData(corpus, session_id, split, forecast, seed)
        if (why := data.no_spikes) is not None:
            left_out[session_id] = why
            continue
        results[session_id], rates = _evaluate_session(models, data, inflation)
        measured.measure(data, rates)
    if not results:
        raise ValueError("no session can be scored: " + "; ".join(f"{one}: {why}" for one, why in left_out.items()))
    metric = "bits_per_spike" if corpus.modality == "spikes" else "r2"
    forecasts = _table(metric, {name: result.forecast for name, result in results.items()})
    forecasts["note"] = "; ".join(_notes(results, left_out))
    reconstructions = _table(metric, {name: result.reconstruction for name, result in results.items()})
    calibration = calibration_summary(_by_row(results), forecast.samples, inflation)
    return {
        **_what_was_evaluated(model, corpus, split, forecast, seed),
        "forecast": forecasts,
        "reconstruction": reconstructions,
        "calibration": calibration,
        **({"sessions_left_out": left_out} if left_out else {}),
        "sessions": {
            name: {"subject": result.subject, "windows": result.windows, "units": result.units}
            for name, result in results.items()
        },
        **measured.results(
            {
                "forecast": (model.config.head, forecasts),
                "reconstruction": (AUTOENCODER, reconstructions),
                **{name: (model.config.head, table) for name, table in score_tables(calibration).items()},
            }
        ),
    }


def _what_was_evaluated(
    model: NeuralModel, corpus: Corpus, split: str, forecast: ForecastSection, seed: int
) -> dict[str, Any]:
    return {
        "head": model.config.head,
        "modality": corpus.modality,
        "split": split,
        "seed": seed,
        "samples": forecast.samples,
        "context_bins": forecast.context_bins,
        "horizon_bins": forecast.horizon_bins,
        "stride_bins": forecast.stride_bins,
        "bin_s": corpus.bin_s,
        "covariates": {name: covariate.known for name, covariate in model.config.dynamics.covariates.items()},
    }


def _evaluate_session(
    models: Mapping[str, NeuralModel], data: SessionData, inflation: Inflation
) -> tuple[SessionResult, ScoredRates]:
    entry = data.corpus.session(data.session_id)
    for model in models.values():
        model.registry.rows(entry)
        refuse_other_widths([entry], model.config.dynamics.covariate_columns)
    windows = data.windows(data.split)
    future = windows.signal_NTC[:, data.forecast.context_bins :]
    measure = bits_per_spike if data.spikes else r2
    learned: dict[str, np.ndarray] = {}
    ensembles: dict[str, dict[str, EnsembleScores]] = {}
    for name, heads in _heads(models).items():
        made = scored_forecasts(models[name], heads, data.session_id, windows, data.forecast, data.seed, inflation)
        learned |= {row: one.rates_NHC for row, one in made.items()}
        ensembles |= {row: one.scores for row, one in made.items()}
    if len(models) > 1:
        learned[f"mean of {len(models)} models"] = np.mean([learned[name] for name in models], axis=0)
    baselines = baseline_forecasts(data, memory_of(models.values()))
    rates = ScoredRates(learned, baselines, _reconstructions(next(iter(models.values())), data))
    result = SessionResult(
        subject=entry.subject_id,
        windows=len(windows.keys),
        units=len(windows.unit_ids),
        forecast={row: measure(future, values) for row, values in rates.forecast.items()},
        reconstruction={row: measure(windows.signal_NTC, values) for row, values in rates.reconstruction.items()},
        ensembles=ensembles,
        why_no_psth=data.why_not_aligned,
    )
    return result, rates


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
    split: str,
    forecast: ForecastSection,
    seed: int,
    progress: Callable[[str], None],
) -> Inflation:
    """Factors of every learned row, fitted on the valid split of all sessions that are scored on `split`, together."""
    if split == "valid":
        raise ValueError("recalibration is fitted on the valid split: evaluate it on another one, such as test")
    bins = forecast.context_bins + forecast.horizon_bins
    scores: dict[str, list[EnsembleScores]] = {}
    for session_id in sessions:
        if SessionData(corpus, session_id, split, forecast, seed).no_spikes is not None:
            continue
        progress(f"{session_id}, valid split")
        for name, heads in _heads(models).items():
            model = models[name]
            names = model.config.dynamics.covariates
            windows = read_windows(corpus, session_id, "valid", bins, names, forecast.stride_bins)
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


def _reconstructions(model: NeuralModel, data: SessionData) -> dict[str, np.ndarray]:
    """Expected signal over all bins by the autoencoder, which reads them, and by the train mean, (N, T, C)."""
    train_mean_C = data.windows("train").signal_NTC.mean(axis=(0, 1))
    expected = np.broadcast_to(train_mean_C, data.windows(data.split).signal_NTC.shape)
    return {AUTOENCODER: data.rates(model, data.split), "train mean": expected}


def _notes(results: Mapping[str, SessionResult], left_out: Mapping[str, str]) -> Iterator[str]:
    yield from (f"left out: {name}: {reason}" for name, reason in left_out.items())
    reasons = {name: result.why_no_psth for name, result in results.items() if result.why_no_psth}
    yield from (f"no psth in {name}: {reason}" for name, reason in reasons.items())


def _table(metric: str, values: dict[str, dict[str, float]]) -> dict[str, Any]:
    """Rows with the value of each session (None without), their mean and its standard error over sessions."""
    rows = {}
    for row in dict.fromkeys(row for one in values.values() for row in one):
        sessions = {session: finite(one.get(row)) for session, one in values.items()}
        rows[row] = {**mean_and_sem(sessions), "sessions": sessions}
    return {"metric": metric, "definition": DEFINITIONS[metric], "rows": rows}
