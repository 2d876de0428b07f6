"""Rollouts of one session, scored as they come: mean rates, and how far the samples can be trusted.

N windows, S samples, H horizon bins, C units, L latent channels.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from neurochorus.data_shards.batch import Batch
from neurochorus.models import NeuralModel
from neurochorus.models.rollout import Rollout
from neurochorus.pretrain.config import ForecastSection
from neurochorus.pretrain.evaluation.calibration import EnsembleScores, ensemble_scores
from neurochorus.pretrain.evaluation.recalibration import inflate
from neurochorus.pretrain.evaluation.windows import Windows, known_to_forecast

WINDOWS_AT_ONCE = 64
VALUES_AT_ONCE = 2**25
"Most counts of samples held at a time."


@dataclass(frozen=True)
class ScoredForecast:
    rates_NHC: np.ndarray
    "Expected rates: Rollout.expected_rate."
    scores: dict[str, EnsembleScores]
    "latents, units, population -> scores of their samples (calibration_summary.DEFINITIONS); recalibrated latents."

    @classmethod
    def join(cls, parts: Sequence["ScoredForecast"]) -> "ScoredForecast":
        """Windows of all parts, in order."""
        return cls(
            np.concatenate([part.rates_NHC for part in parts]),
            {what: EnsembleScores.join([part.scores[what] for part in parts]) for what in parts[0].scores},
        )


def scored_forecasts(
    model: NeuralModel,
    heads: Mapping[str, str | None],
    session_id: str,
    windows: Windows,
    forecast: ForecastSection,
    seed: int,
    inflation: Mapping[str, np.ndarray],
) -> dict[str, ScoredForecast]:
    """Free-running forecasts of one model by row; `heads` says which head makes a row (None: the model's own).

    Rows named in `inflation` (factors by lead) are scored a second time with their latents recalibrated.
    """
    horizon, samples = forecast.horizon_bins, forecast.samples
    parts: dict[str, list[ScoredForecast]] = {row: [] for row in heads}
    for chunk in chunks(windows, horizon * samples):
        context = batch_of(model, session_id, windows, chunk, forecast.context_bins)
        latent_NHL = model.encode(batch_of(model, session_id, windows, chunk))[:, -horizon:].cpu().numpy()
        signal_NHC = windows.signal_NTC[chunk, forecast.context_bins :]
        for row, head in heads.items():
            rollout = model.rollout(context, horizon, samples, seed, head=head)
            scores = _scores(rollout, latent_NHL, signal_NHC, model.modality == "spikes")
            if row in inflation:
                wider_SNHL = inflate(rollout.latents.cpu().numpy(), inflation[row])
                scores["recalibrated latents"] = ensemble_scores(latent_NHL, wider_SNHL)
            parts[row].append(ScoredForecast(rollout.expected_rate.cpu().numpy(), scores))
    return {row: ScoredForecast.join(made) for row, made in parts.items()}


def latent_scores(
    model: NeuralModel, head: str | None, session_id: str, windows: Windows, forecast: ForecastSection, seed: int
) -> EnsembleScores:
    """Scores of the sampled latents alone, from which factors are fitted."""
    horizon = forecast.horizon_bins
    parts = []
    for chunk in chunks(windows):
        context = batch_of(model, session_id, windows, chunk, forecast.context_bins)
        recorded_NTL = model.encode(batch_of(model, session_id, windows, chunk))
        _, sampled_SNHL = model.forecast(context, horizon, forecast.samples, seed, head=head)
        parts.append(ensemble_scores(recorded_NTL[:, -horizon:].cpu().numpy(), sampled_SNHL.cpu().numpy()))
    return EnsembleScores.join(parts)


def batch_of(model: NeuralModel, session_id: str, windows: Windows, chunk: slice, bins: int | None = None) -> Batch:
    """A chunk of windows, or their first bins, as a batch on the model's device, with their keys as sample ids."""
    known = {name: values[chunk] for name, values in windows.covariates.items()}
    covariates = known_to_forecast(model, known, bins)
    batch = model.context(
        session_id, windows.signal_NTC[chunk, :bins], windows.unit_ids, covariates, windows.chosen(chunk).earlier(model)
    )
    batch.sample_ids = windows.keys[chunk]
    return batch.to(model.device)


def chunks(windows: Windows, values_per_unit: int = 1) -> Iterator[slice]:
    """Slices of windows that are handled together; `values_per_unit` of each are held, such as samples x horizon."""
    at_once = VALUES_AT_ONCE // (values_per_unit * len(windows.unit_ids))
    at_once = max(1, min(WINDOWS_AT_ONCE, at_once))
    for start in range(0, len(windows.keys), at_once):
        yield slice(start, start + at_once)


def _scores(
    rollout: Rollout, latent_NHL: np.ndarray, signal_NHC: np.ndarray, spikes: bool
) -> dict[str, EnsembleScores]:
    """Scores against the recorded latents and signal of the same bins."""
    sampled_SNHC = _small(rollout.counts) if spikes else rollout.counts.cpu().numpy()
    together = np.sum if spikes else np.mean
    population = [together(values, axis=-1, keepdims=True, dtype=float) for values in (signal_NHC, sampled_SNHC)]
    return {
        "latents": ensemble_scores(latent_NHL, rollout.latents.cpu().numpy()),
        "units": ensemble_scores(signal_NHC, sampled_SNHC),
        "population": ensemble_scores(*population),
    }


def _small(counts: torch.Tensor) -> np.ndarray:
    """Counts as bytes where none is larger than that, which are many times faster to score."""
    return counts.to(torch.uint8 if counts.max() <= 255 else torch.int32).cpu().numpy()
