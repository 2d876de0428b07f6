"""Whole trials of one session, generated from nothing or observed anew from the latents of recorded ones.

N trials, T bins, C units, L latent channels.
"""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from neurochorus.models import LatentSequence, NeuralModel
from neurochorus.models.observing import observe
from neurochorus.models.rollout import row_generators
from neurochorus.pretrain.evaluation.output_file import check_output, write_whole

TRIALS_AT_ONCE = 100


@dataclass(frozen=True)
class WholeTrials:
    counts_NTC: np.ndarray
    latent_seconds: float
    "Wall time of the latents; NaN where they were not generated."
    count_seconds: float
    "Wall time from latents to counts."
    threads: int

    @property
    def seconds_per_thousand(self) -> float:
        """Wall time of 1,000 trials, counts included."""
        return 1000 / len(self.counts_NTC) * (self.latent_seconds + self.count_seconds)

    def write(self, path: Path) -> None:
        """Write an .npz, whole or not at all."""
        counts = self.counts_NTC.astype(np.min_scalar_type(int(self.counts_NTC.max())))
        facts = {name: np.array(getattr(self, name)) for name in ("latent_seconds", "count_seconds", "threads")}
        arrays: dict[str, Any] = {"counts": counts, **facts}
        write_whole(check_output(path, ".npz"), lambda file: np.savez_compressed(file, **arrays))

    @classmethod
    def read(cls, path: Path) -> "WholeTrials":
        with np.load(path, allow_pickle=False) as arrays:
            return cls(
                arrays["counts"],
                float(arrays["latent_seconds"]),
                float(arrays["count_seconds"]),
                int(arrays["threads"]),
            )


@torch.no_grad()
def trials_from_nothing(model: NeuralModel, session_id: str, trials: int, horizon: int, seed: int) -> WholeTrials:
    """Generate trials of `horizon` bins, timed, after one that is not (a first call is slower)."""
    units = len(model.registry.session(session_id).unit_ids)
    for count in (1, trials):
        context = model.context(session_id, np.zeros((count, 0, units), dtype=np.float32)).to(model.device)
        begun = time.perf_counter()
        generators = row_generators(seed, context.sample_ids, 1)
        sequence = LatentSequence.of(model.encode(context), context)
        latent_NTL = model.dynamics.simulate(sequence, horizon, 1, generators)[:, 0]
        latent_NTL.sum().item()  # a GPU may still be at work
        made = time.perf_counter()
        counts_NTC = _observed(model, session_id, latent_NTL, generators)
        done = time.perf_counter()
    return WholeTrials(counts_NTC, made - begun, done - made, torch.get_num_threads())


@torch.no_grad()
def trials_observed_anew(model: NeuralModel, session_id: str, recorded_NTC: np.ndarray, seed: int) -> WholeTrials:
    """Counts drawn anew from the latents of recorded trials: the best that any dynamics on these latents can do."""
    parts = []
    begun = time.perf_counter()
    for start in range(0, len(recorded_NTC), TRIALS_AT_ONCE):
        batch = model.context(session_id, recorded_NTC[start : start + TRIALS_AT_ONCE]).to(model.device)
        ids = [f"{session_id}-anew{start + row:06d}" for row in range(len(batch.sample_ids))]
        parts.append(_observed(model, session_id, model.encode(batch), row_generators(seed, ids, 1)))
    return WholeTrials(np.concatenate(parts), float("nan"), time.perf_counter() - begun, torch.get_num_threads())


def _observed(model: NeuralModel, session_id: str, latent_NTL: Tensor, generators: list[torch.Generator]) -> np.ndarray:
    """Counts (N, T, C) of whitened latents."""
    channels = len(model.registry.session(session_id).unit_ids)
    context = model.context(session_id, np.zeros((len(latent_NTL), 0, channels), dtype=np.float32)).to(model.device)
    units = model.autoencoder.units_of(context)
    raw_1NTL = model.whitening.undo(latent_NTL).unsqueeze(0)
    _, counts = observe(model.autoencoder, raw_1NTL, units, context.signal_BTC, generators)
    assert counts is not None
    return counts[0].cpu().numpy()
