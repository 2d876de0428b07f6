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

from neurochorus.data_shards.batch import Batch
from neurochorus.data_shards.dataset import Corpus
from neurochorus.models import NeuralModel
from neurochorus.pretrain.config import ForecastSection
from neurochorus.pretrain.evaluation.baselines import all_baselines
from neurochorus.pretrain.evaluation.metrics import bits_per_spike, central_coverage, r2
from neurochorus.pretrain.evaluation.windows import Windows, read_windows

DEFINITIONS = {
    "bits_per_spike": "(NLL(null) - NLL(model)) / (spikes ln 2), pooled over units and bins of a session; null: each "
    "unit's mean over the evaluated bins (NLB). Forecasts are free-running; rates are means over samples.",
    "r2": "1 - residual / total sum of squares for each unit, averaged over units. Forecasts are free-running; values "
    "are means over samples.",
}
CALIBRATION_LEVEL = 0.9
WINDOWS_AT_ONCE = 64


@dataclass(frozen=True)
class SessionResult:
    """What one session gave: value of each row, and the share of latents inside the central interval by lead."""

    subject: str
    windows: int
    units: int
    forecast: dict[str, float]
    reconstruction: dict[str, float]
    coverage_H: np.ndarray


def evaluate(
    model: NeuralModel,
    corpus: Corpus,
    sessions: Sequence[str],
    split: str,
    forecast: ForecastSection,
    seed: int = 0,
    beside: Mapping[str, NeuralModel] | None = None,
    progress: Callable[[str], None] = lambda session: None,
) -> dict[str, Any]:
    """Results of a model, of the `beside` models (row name -> model) and of the baselines, as plain values.

    Baselines are fitted on the train split, their settings chosen on the valid split. Raises ValueError for
    sessions that a model does not know or knows with other units, and for windows that do not fit.
    """
    results: dict[str, SessionResult] = {}
    for session_id in sessions:
        progress(session_id)
        results[session_id] = _evaluate_session(model, corpus, session_id, split, forecast, seed, dict(beside or {}))
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
        "forecast": _table(metric, {name: result.forecast for name, result in results.items()}),
        "reconstruction": _table(metric, {name: result.reconstruction for name, result in results.items()}),
        "calibration": {
            "level": CALIBRATION_LEVEL,
            "coverage_by_lead": np.mean([result.coverage_H for result in results.values()], axis=0).tolist(),
            "definition": "share of the whitened latents of the recorded bins inside the central interval of the "
            "samples, over channels and windows, mean over sessions, at each lead in bins",
        },
        "sessions": {
            name: {"subject": result.subject, "windows": result.windows, "units": result.units}
            for name, result in results.items()
        },
    }


def _evaluate_session(
    model: NeuralModel,
    corpus: Corpus,
    session_id: str,
    split: str,
    forecast: ForecastSection,
    seed: int,
    beside: dict[str, NeuralModel],
) -> SessionResult:
    bins = forecast.context_bins + forecast.horizon_bins
    entry = corpus.session(session_id)
    windows = read_windows(corpus, session_id, split, bins)
    future = windows.signal_NTC[:, forecast.context_bins :]
    measure = bits_per_spike if corpus.modality == "spikes" else r2
    for known in (model, *beside.values()):
        known.registry.rows(entry)
    rates, sampled_SNHL = _forecast(model, session_id, windows, forecast, seed, None)
    rows = {model.config.head: measure(future, rates)}
    if model.dynamics.companion is not None:
        rates, _ = _forecast(model, session_id, windows, forecast, seed, "gaussian")
        rows["gaussian head, same backbone"] = measure(future, rates)
    for name, other in beside.items():
        rates, _ = _forecast(other, session_id, windows, forecast, seed, None)
        rows[name] = measure(future, rates)
    rows |= _baseline_rows(corpus, session_id, windows, forecast, measure)
    return SessionResult(
        subject=entry.subject_id,
        windows=len(windows.keys),
        units=len(windows.unit_ids),
        forecast=rows,
        reconstruction=_reconstruction_rows(model, corpus, session_id, windows, bins, measure),
        coverage_H=_coverage(model, session_id, windows, sampled_SNHL),
    )


def _forecast(
    model: NeuralModel, session_id: str, windows: Windows, forecast: ForecastSection, seed: int, head: str | None
) -> tuple[np.ndarray, np.ndarray]:
    """Mean rates (N, H, C), and the sampled latents (S, N, H, L)."""
    rates, sampled = [], []
    for start in range(0, len(windows.keys), WINDOWS_AT_ONCE):
        chunk = slice(start, start + WINDOWS_AT_ONCE)
        context = _batch(model, session_id, windows, chunk, forecast.context_bins)
        mean, latents = model.forecast(context, forecast.horizon_bins, forecast.samples, seed, head=head)
        rates.append(mean.cpu().numpy())
        sampled.append(latents.cpu().numpy())
    return np.concatenate(rates), np.concatenate(sampled, axis=1)


def _coverage(model: NeuralModel, session_id: str, windows: Windows, sampled_SNHL: np.ndarray) -> np.ndarray:
    """Share of the recorded latents inside the central interval of the samples, by lead (H,)."""
    horizon = sampled_SNHL.shape[2]
    recorded_NHL = np.concatenate(
        [
            model.encode(_batch(model, session_id, windows, slice(start, start + WINDOWS_AT_ONCE)))[:, -horizon:].cpu()
            for start in range(0, len(windows.keys), WINDOWS_AT_ONCE)
        ]
    )
    return np.array(
        [
            central_coverage(recorded_NHL[:, lead], sampled_SNHL[:, :, lead], CALIBRATION_LEVEL)
            for lead in range(horizon)
        ]
    )


def _batch(model: NeuralModel, session_id: str, windows: Windows, chunk: slice, bins: int | None = None) -> Batch:
    batch = model.context(session_id, windows.signal_NTC[chunk, :bins], windows.unit_ids)
    batch.sample_ids = windows.keys[chunk]
    return batch.to(model.device)


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
    parts = [
        model.reconstruct(_batch(model, session_id, windows, slice(start, start + WINDOWS_AT_ONCE))).cpu().numpy()
        for start in range(0, len(windows.keys), WINDOWS_AT_ONCE)
    ]
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
