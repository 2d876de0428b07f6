"""Rates of a model for the Neural Latents Benchmark, from the input files that nlb_tools makes.

`nlb_tools.make_tensors.make_train_input_tensors` and `make_eval_input_tensors` write `train_spikes_heldin`,
`train_spikes_heldout` and `eval_spikes_heldin` (trials, bins, units); NaN where a trial was not recorded to its end.
The model reads held-in units only, also of training trials, and of those the bins so far (its encoder is causal).
N trials, T bins, C units, K held-in units.
"""

from pathlib import Path

import numpy as np
import torch

from neurochorus.data_shards.batch import Batch
from neurochorus.data_shards.importers.hdf5 import Hdf5
from neurochorus.models import NeuralModel
from neurochorus.pretrain.submissions.neural_latents import FORWARD_MS
from neurochorus.pretrain.submissions.unread_units import forward_rates, smoothed_rates

TRIALS_AT_ONCE = 64
INPUTS = {"train": "train_spikes_heldin", "eval": "eval_spikes_heldin"}


def benchmark_rates(
    model: NeuralModel, session_id: str, train: Path, evaluated: Path, samples: int, seed: int = 0, forward: bool = True
) -> dict[str, np.ndarray]:
    """Every field of a group of a submission, float32, from the two input files.

    The session's units are the held-in ones in the order of the files, then the held-out ones, as the recipe `lfads`
    writes them. Raises ValueError for a session with another number of units, another shape, a model of continuous
    signals, or with `forward` one that cannot forecast.
    """
    session = model.registry.session(session_id)
    if session.modality != "spikes":
        raise ValueError(f"session {session_id!r}: is {session.modality}; the benchmark scores spikes")
    spikes = {"train": _read(train, INPUTS["train"]), "eval": _read(evaluated, INPUTS["eval"])}
    held_out = _read(train, "train_spikes_heldout").shape[2]
    for part, path in (("train", train), ("eval", evaluated)):
        found = spikes[part].shape[2] + held_out
        if found != len(session.unit_ids):
            raise ValueError(
                f"{path}: {spikes[part].shape[2]} held-in and {held_out} held-out units are {found}; session "
                f"{session_id!r} has {len(session.unit_ids)}: write its shards from the same files (recipe lfads)"
            )
    held_out_C = np.arange(len(session.unit_ids)) >= spikes["train"].shape[2]
    horizon = round(FORWARD_MS / 1000 / session.bin_s) if forward else 0
    fields: dict[str, np.ndarray] = {}
    for part, counts_NTK in spikes.items():
        ahead = horizon if part == "eval" else 0
        made = [
            _of_trials(model, session_id, counts_NTK[start : start + TRIALS_AT_ONCE], held_out_C, ahead, samples, seed)
            for start in range(0, len(counts_NTK), TRIALS_AT_ONCE)
        ]
        for place, suffix in enumerate(("", "_forward")[: 1 + bool(ahead)]):
            rates_NTC = np.concatenate([one[place] for one in made])
            fields[f"{part}_rates_heldin{suffix}"] = rates_NTC[..., ~held_out_C]
            fields[f"{part}_rates_heldout{suffix}"] = rates_NTC[..., held_out_C]
    return fields


def _of_trials(
    model: NeuralModel,
    session_id: str,
    counts_NTK: np.ndarray,
    held_out_C: np.ndarray,
    horizon: int,
    samples: int,
    seed: int,
) -> list[np.ndarray]:
    batch = _batch(model, session_id, counts_NTK, held_out_C)
    made = [smoothed_rates(model, batch, held_out_C)]
    if horizon:
        made.append(forward_rates(model, batch, held_out_C, horizon, samples, seed))
    return [rates_BTC.float().cpu().numpy() for rates_BTC in made]


def _batch(model: NeuralModel, session_id: str, counts_NTK: np.ndarray, held_out_C: np.ndarray) -> Batch:
    """Held-out columns are zero and never read; bins that were not recorded hold the units' train means."""
    counts_NTC = np.zeros((*counts_NTK.shape[:2], len(held_out_C)))
    counts_NTC[..., ~held_out_C] = counts_NTK
    missing_NTC = np.isnan(counts_NTC)
    batch = model.context(session_id, np.where(missing_NTC, 0, counts_NTC)).to(model.device)
    mean_BC = model.autoencoder.units(batch.unit_rows_BC).mean_BC
    missing_BTC = torch.from_numpy(missing_NTC).to(model.device)
    batch.signal_BTC = torch.where(missing_BTC, mean_BC.unsqueeze(1), batch.signal_BTC.float())
    return batch


def _read(path: Path, key: str) -> np.ndarray:
    source = Hdf5(path)
    try:
        return source.array(key, ndim=3).astype(float)
    finally:
        source.close()
