"""Rates of a session of which some units are not read: those of held-out units come from their read-out rows alone.

B windows, T bins, H horizon bins, C units, S samples, L latent channels.
"""

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from neurochorus.data_shards.batch import Batch
from neurochorus.models import NeuralModel
from neurochorus.models.dynamics import LatentSequence
from neurochorus.models.observing import observe
from neurochorus.models.rollout import expected_rate, row_generators
from neurochorus.models.units import UnitRows
from neurochorus.pretrain.evaluation.suite.held_out_units import encode_without


@torch.no_grad()
def smoothed_rates(model: NeuralModel, batch: Batch, held_out_C: np.ndarray) -> Tensor:
    """Expected signal of every unit at each bin, (B, T, C), with held-out units hidden from the encoder.

    Held-in units also have their own past (slow gain, spike history); that of held-out units is never read, so that
    what the batch holds in their columns does not matter.
    """
    autoencoder, units = model.autoencoder, model.autoencoder.units_of(batch)
    latent_BTL = model.whitening.undo(encode_without(model, batch, held_out_C).latent_BTL)
    own_BTC = _without(autoencoder.own_past(batch.signal_BTC, units), held_out_C)
    return autoencoder.mean(autoencoder.decode(latent_BTL, units, own_BTC), units)


@torch.no_grad()
def forward_rates(
    model: NeuralModel, batch: Batch, held_out_C: np.ndarray, horizon: int, samples: int, seed: int
) -> Tensor:
    """`expected_rate` of `samples` free-running rollouts from held-in units alone, of every unit (B, H, C).

    Raises ValueError for a model whose encoder sees the future.
    """
    model.refuse_seen_future()
    autoencoder = model.autoencoder
    units = _without_history(autoencoder.units_of(batch), held_out_C)
    generators = row_generators(seed, batch.sample_ids, samples)
    sequence = LatentSequence.of(encode_without(model, batch, held_out_C).latent_BTL, batch)
    latents_SBHL = model.dynamics.simulate(sequence, horizon, samples, generators).transpose(0, 1)
    slow_B1C = _without(autoencoder.slow_level(batch.signal_BTC, units)[:, -1:], held_out_C)
    total = torch.zeros(len(batch.session_B), horizon, len(held_out_C), device=model.device)
    for number, latent_BHL in enumerate(latents_SBHL):
        raw_1BHL = model.whitening.undo(latent_BHL)[None]
        own = generators[number::samples]
        rates, _ = observe(autoencoder, raw_1BHL, units, batch.signal_BTC, own, want_counts=False, slow=slow_B1C)
        total += rates[0]
    return expected_rate(total / samples, model.usual_rates(units), model.config.dynamics.usual_share)


def _without(values_BTC: Tensor, held_out_C: np.ndarray) -> Tensor:
    return torch.where(torch.from_numpy(held_out_C).to(values_BTC.device), 0.0, values_BTC)


def _without_history(units: UnitRows, held_out_C: np.ndarray) -> UnitRows:
    """The filters of held-out units at rest: the counts that they would read are not known."""
    held_C1 = torch.from_numpy(held_out_C).to(units.history_BCK.device).unsqueeze(-1)
    return replace(units, history_BCK=torch.where(held_C1, 0.0, units.history_BCK))
