"""Generated activity as plain arrays: contexts in, an .npz out.

S samples, B contexts, T context bins, H horizon bins, C units, L latent channels.
"""

from pathlib import Path
from typing import Any

import numpy as np

from neurochorus.models import NeuralModel
from neurochorus.pretrain.evaluation.contexts import Context
from neurochorus.pretrain.evaluation.output_file import check_output, write_whole


def generate(
    model: NeuralModel,
    context: Context,
    horizon: int,
    samples: int,
    seed: int = 0,
    temperature: float = 1.0,
    head: str | None = None,
    guidance: float = 1.0,
) -> dict[str, Any]:
    """Arrays of free-running samples: latents (S, B, H, L), rates and counts (S, B, H, C), and what they belong to.

    A covariate that was given is there as `covariate_NAME` (B, bins from the first of the context on, columns).
    `context_latents` (B, T, L) are what the encoder reads from the context alone, if there is one.
    `held_out` (B, H, C) and `held_out_latents` (B, H, L) are there when the recording after the context is known.
    """
    session = model.registry.session(context.session_id)
    batch = model.context(context.session_id, context.signal_BTC, context.unit_ids, context.covariates, context.earlier)
    batch.sample_ids = context.keys
    rollout = model.rollout(batch.to(model.device), horizon, samples, seed, temperature, head, guidance=guidance)
    spikes = model.modality == "spikes"
    arrays: dict[str, Any] = {
        "latents": rollout.latents.cpu().numpy(),
        "rates": rollout.rates.cpu().numpy(),
        "counts": rollout.counts.cpu().numpy().astype(np.uint16 if spikes else np.float32),
        "context": context.signal_BTC,
        "unit_ids": np.array(context.unit_ids),
        "sample_ids": np.array(context.keys),
        "session_id": np.array(context.session_id),
        "subject_id": np.array(session.subject_id),
        "modality": np.array(model.modality),
        "head": np.array(head or model.config.head),
        "bin_s": np.array(session.bin_s),
        "seed": np.array(seed),
        "temperature": np.array(temperature),
        "guidance": np.array(guidance),
        **{f"covariate_{name}": values for name, values in context.covariates.items()},
    }
    if context.signal_BTC.shape[1]:
        arrays["context_latents"] = model.encode(batch.to(model.device)).cpu().numpy()
    if context.held_out_BHC is not None:
        whole = np.concatenate((context.signal_BTC, context.held_out_BHC), axis=1)
        recorded = model.encode(model.context(context.session_id, whole, context.unit_ids).to(model.device))
        arrays["held_out"] = context.held_out_BHC
        arrays["held_out_latents"] = recorded[:, -context.held_out_BHC.shape[1] :].cpu().numpy()
    return arrays


def write_generated(path: Path, arrays: dict[str, Any]) -> Path:
    """Write an .npz (no pickle), whole or not at all. Raises ValueError for another file ending."""
    write_whole(check_output(path, ".npz"), lambda file: np.savez_compressed(file, **arrays))
    return path
