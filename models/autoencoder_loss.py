"""The training loss of stage 1: the present bin and the futures of what latents decode to, and penalties.

B batch, T bins, C units, L latent channels.
"""

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from neurochorus.data_shards.batch import Batch
from neurochorus.models.latent_penalties import mean_square, roughness
from neurochorus.models.posterior import Posterior
from neurochorus.models.time_windows import known_next, mean_of_next
from neurochorus.models.units import UnitRows

if TYPE_CHECKING:
    from neurochorus.models.autoencoder import Autoencoder


def summed_loss(own: "Autoencoder", batch: Batch) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Training loss summed over valid bins, their number, and the parts of the loss (also sums)."""
    units = own.units_of(batch)
    keep_BTC, weight_BTC = hide(own, batch)
    posterior = own.posterior(batch.signal_BTC, units, batch.session_B, keep_BTC, batch.bin_mask_BT)
    latent_BTL = posterior.draw() if own.training else posterior.mean_BTL
    read_BTL = F.dropout(latent_BTL, own.config.latent_dropout, own.training)
    target_BTC = own.observation.target(batch.signal_BTC, units.mean_BC, units.sd_BC)
    scored_BT = batch.bin_mask_BT & (
        torch.arange(target_BTC.shape[1], device=target_BTC.device) >= own.config.burn_in_bins
    )
    parts = _decoding_parts(own, read_BTL, batch.signal_BTC, target_BTC, scored_BT, weight_BTC, units)
    parts |= _penalties(own, posterior, batch, units)
    count = scored_BT.sum()
    return torch.stack(list(parts.values())).sum(), count, {name: part.detach() for name, part in parts.items()}


def hide(own: "Autoencoder", batch: Batch) -> tuple[Tensor | None, Tensor | None]:
    """Factors on what the encoder sees and on what is scored (1 on average, 0 where it is the other's): None for 1.

    The entries are those that the batch says are hidden, if it does, else drawn by `unit_dropout`, `bin_dropout`.
    """
    unit, single = own.config.unit_dropout, own.config.bin_dropout
    signal_BTC, hidden_BTC = batch.signal_BTC, batch.hidden_BTC
    if not own.training or (hidden_BTC is None and not (unit or single)):
        return None, None
    if hidden_BTC is not None:
        share = hidden_BTC.float().mean().clamp(1e-6, 1 - 1e-6)
        return (~hidden_BTC).float() / (1 - share), hidden_BTC / share
    samples, bins, channels = signal_BTC.shape
    hidden_BTC = torch.rand(samples, 1, channels, device=signal_BTC.device) < unit
    if single:
        hidden_BTC = hidden_BTC | (torch.rand(samples, bins, channels, device=signal_BTC.device) < single)
    seen = (1 - unit) * (1 - single)
    return (~hidden_BTC).float() / seen, hidden_BTC / (1 - seen)


def _decoding_parts(
    own: "Autoencoder",
    latent_BTL: Tensor,
    signal_BTC: Tensor,
    target_BTC: Tensor,
    scored_BT: Tensor,
    weight_BTC: Tensor | None,
    units: UnitRows,
) -> dict[str, Tensor]:
    scale_B = own.observation.loss_scale(units.mean_BC, units.mask_BC)
    shape_BC = units.shape_BC.float()

    def summed(loss_BTC: Tensor, mask_BT: Tensor, weight_BTC: Tensor) -> Tensor:
        loss_BT = (loss_BTC * weight_BTC).sum(dim=-1) / scale_B[:, None]
        return (loss_BT * mask_BT).sum()

    unit_weight_B1C = units.mask_BC.unsqueeze(1).float()
    weight_BTC = unit_weight_B1C if weight_BTC is None else unit_weight_B1C * weight_BTC
    slow_BTC = own.slow_level(signal_BTC, units)
    # the present bin may not explain itself
    decoded_BTC = own.decode(latent_BTL, units, own.own_past(signal_BTC, units, slow_BTC))
    with torch.autocast(target_BTC.device.type, enabled=False):
        loss_BTC = own.observation.loss(decoded_BTC, target_BTC, shape_BC)
        parts = {"present": own.config.present_weight * summed(loss_BTC, scored_BT, weight_BTC)}
    for index, (bins, weight) in enumerate(own.config.future_weights.items()):
        decoded_BTC = own.decode(latent_BTL @ own.future_maps[index], units, slow_BTC)
        mask_BT = known_next(scored_BT, bins)
        with torch.autocast(target_BTC.device.type, enabled=False):
            loss_BTC = own.observation.future_loss(decoded_BTC, mean_of_next(target_BTC, bins), shape_BC)
            parts[f"future_{bins}"] = weight * summed(loss_BTC, mask_BT, unit_weight_B1C)
    return parts


def _penalties(own: "Autoencoder", posterior: Posterior, batch: Batch, units: UnitRows) -> dict[str, Tensor]:
    config, parts, bin_mask_BT = own.config, {}, batch.bin_mask_BT
    if config.latent_l2:
        parts["latent_l2"] = config.latent_l2 * mean_square(posterior.mean_BTL, bin_mask_BT)
    if config.latent_smoothness:
        parts["latent_smoothness"] = config.latent_smoothness * roughness(posterior.mean_BTL, bin_mask_BT)
    if config.variational:
        divergence_BT = posterior.divergence().clamp(min=config.kl_clamp).sum(dim=-1)
        parts["divergence"] = config.kl_weight * (divergence_BT * bin_mask_BT).sum()
    if config.row_penalty:
        share = units.mask_BC.float().unsqueeze(-1) / units.mask_BC.sum()
        rows = (units.read_in_BCD.square() * share).sum() + (units.read_out_BCL.square() * share).sum()
        parts["rows"] = config.row_penalty * rows * bin_mask_BT.sum()
    if own.row_prior is not None and own.training:  # a score of held-out data is of the data alone
        scale_B = own.observation.loss_scale(units.mean_BC, units.mask_BC)
        parts["row_prior"] = (own.row_prior(batch.unit_rows_BC, units, scale_B) * bin_mask_BT.sum(dim=-1)).sum()
    return parts
