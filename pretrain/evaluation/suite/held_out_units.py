"""Which units are held out, and what the model makes of a session without them.

B windows, T bins, C units, L latent channels.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from neurochorus.data_shards.batch import Batch
from neurochorus.data_shards.seeds import keyed_bits
from neurochorus.models import NeuralModel
from neurochorus.models.missing_units import scale_for_missing_units


def held_out_units(unit_ids: Sequence[str], share: float, seed: int) -> np.ndarray:
    """Bool (C,), True for `share` of the units, at least one and not all.

    Units are ranked by a hash of (seed, unit id): the order of the columns does not matter, and the units of a smaller
    share are among those of a larger one. Raises ValueError for fewer than two units.
    """
    units = len(unit_ids)
    if units < 2 or not 0 < share < 1:
        raise ValueError(f"held-out units: {units} units and a share of {share}; expected 2 or more and 0 < share < 1")
    count = min(units - 1, max(1, round(share * units)))
    ranked = sorted(range(units), key=lambda place: keyed_bits("held-out", seed, unit_ids[place]))
    chosen = np.zeros(units, dtype=bool)
    chosen[ranked[:count]] = True
    return chosen


class Unseen(NamedTuple):
    """What the autoencoder makes of a batch whose held-out units it did not read."""

    latent_BTL: torch.Tensor
    "Whitened."
    expected_BTC: torch.Tensor
    "Expected signal of every unit at an average past of its own."


@torch.no_grad()
def encode_without(model: NeuralModel, batch: Batch, held_out_C: np.ndarray) -> Unseen:
    """Encode with held-out units hidden from the read-in and the others scaled up, as when training drops units.

    No unit's own past (slow gain, spike history) is read either: for held-out units it would be their own spikes.
    """
    autoencoder = model.autoencoder
    units = autoencoder.units_of(batch)
    seen_C = torch.from_numpy(~held_out_C).to(batch.signal_BTC.device)
    scale = autoencoder.observation.loss_scale
    share_B = scale(units.mean_BC, units.mask_BC & seen_C) / scale(units.mean_BC, units.mask_BC)
    keep_B1C = (seen_C.float() / share_B[:, None]).unsqueeze(1)
    if batch.units_missing:
        keep_B1C = keep_B1C * scale_for_missing_units(model.registry, autoencoder, batch)
    signal_BTC = torch.where(seen_C, batch.signal_BTC, 0)
    raw_BTL = autoencoder.encode(signal_BTC, units, batch.session_B, keep_B1C, batch.bin_mask_BT)
    expected_BTC = autoencoder.mean(autoencoder.decode(raw_BTL, units), units)
    return Unseen(model.whitening(raw_BTL), expected_BTC)
