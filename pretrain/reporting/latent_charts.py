"""Latent trajectories in the plane of two principal components: context, what the encoder reads after it, samples.

The components are those of the encoded recorded bins of all trials, of the samples where nothing was recorded.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from neurochorus.pretrain.evaluation.generated_trials import GeneratedTrials
from neurochorus.pretrain.evaluation.picture_style import head_colour
from neurochorus.pretrain.reporting.charts import CONTEXT, INK, Key, Plot, Trace, line, points
from neurochorus.pretrain.reporting.trial_charts import shown_context_bins

SAMPLES = 5
"Sampled trajectories that are drawn."
COMPONENTS = 3
PLANES = ((0, 1), (0, 2), (1, 2))


@dataclass(frozen=True)
class Components:
    mean_L: np.ndarray
    vectors_LK: np.ndarray
    shares_K: np.ndarray
    "Of the variance."

    def __call__(self, latents: np.ndarray) -> np.ndarray:
        """(..., L) -> (..., K)."""
        return (latents - self.mean_L) @ self.vectors_LK


def principal_components(trials: GeneratedTrials) -> Components:
    """At most COMPONENTS, of the latents of all trials."""
    latents = trials.latents_SBHL if trials.held_out_latents_BHL is None else trials.held_out_latents_BHL
    flat = latents.reshape(-1, latents.shape[-1]).astype(float)
    mean = flat.mean(axis=0)
    variances, vectors = np.linalg.eigh((flat - mean).T @ (flat - mean) / len(flat))
    chosen = np.argsort(-variances, kind="stable")[:COMPONENTS]
    total = variances.sum()
    return Components(mean, vectors[:, chosen], variances[chosen] / total if total > 0 else np.zeros(len(chosen)))


def trajectory_keys(trials: GeneratedTrials) -> list[Key]:
    return [
        Key("context", CONTEXT),
        Key("end of the context", CONTEXT, kind="point"),
        Key("recorded", INK),
        Key("samples", head_colour(trials.head)),
    ]


def trajectory_plot(trials: GeneratedTrials, trial: int, components: Components, plane: tuple[int, int]) -> Plot:
    """One trial in the plane of two components; nothing where there are fewer components."""
    if max(plane) >= components.vectors_LK.shape[1]:
        return Plot([])
    start, traces = np.zeros((0, 2)), []
    if trials.context_latents_BTL is not None:
        shown = trials.context_latents_BTL[trial, trials.context_bins - shown_context_bins(trials) :]
        path = components(shown)[:, plane]
        start = path[-1:]
        traces += _path("context", path, CONTEXT, 1.3)
    samples = components(trials.latents_SBHL[:SAMPLES, trial])[..., plane]
    gap = np.full((1, 2), np.nan)
    joined = np.concatenate([np.concatenate([start, sample, gap]) for sample in samples])
    traces += _path("samples", joined, head_colour(trials.head), 1.0, opacity=0.6)
    if trials.held_out_latents_BHL is not None:
        recorded = np.concatenate([start, components(trials.held_out_latents_BHL[trial])[:, plane]])
        traces += _path("recorded", recorded, INK, 2.0)
    if len(start):
        traces += points("end of the context", start[:, 0], start[:, 1], CONTEXT, 9, 1.0)
    names = [f"component {one + 1} ({100 * components.shares_K[one]:.0f} %)" for one in plane]
    return Plot(traces, {"xaxis": {"title": names[0]}, "yaxis": {"title": names[1], "scaleanchor": "x"}})


def _path(name: str, path_T2: np.ndarray, colour: str, width: float, **more: Any) -> list[Trace]:
    return line(name, path_T2[:, 1], colour, path_T2[:, 0], width=width, hovertemplate="%{x:.3~g}, %{y:.3~g}", **more)
