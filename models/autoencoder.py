"""Stage 1, the latent space: a causal autoencoder whose latents must also tell the future.

B batch, T bins, C units, L latent channels, D width, F future horizons.

encoder   signal -> read-in rows + session bias -> causal transformer -> latent_BTL
decoder   latent_BTL -> read-out rows + unit bias + slow per-unit gain -> observation model
futures   latent_BTL -> one L x L map a horizon -> the same read-out rows -> mean of the next k bins

Reconstruction alone gives latents that predict poorly, and a unit's slow drift fits in no shared
latent: both were measured (reference/forecasting_notes.md), hence the future decoders and the gain.
"""

import math
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from neurochorus.data_shards.batch import Batch
from neurochorus.data_shards.settings import at_least, settings
from neurochorus.models.backbones.transformer import Transformer, TransformerConfig
from neurochorus.models.observation import observation_for
from neurochorus.models.units import Table, read_in, read_out


@settings
class AutoencoderConfig:
    latents: int = 16
    """Number of latent channels L."""
    encoder: TransformerConfig = field(default_factory=TransformerConfig)
    unit_dropout: float = 0.3
    """Share of units hidden from the encoder, drawn for each sample."""
    bin_dropout: float = 0.0
    """Share of single bins hidden from the encoder (coordinated dropout)."""
    latent_dropout: float = 0.2
    present_weight: float = 0.3
    """Weight of the present bin; scored on hidden entries only when anything is hidden."""
    future_weights: dict[int, float] = field(default_factory=lambda: {1: 0.1, 5: 0.3, 10: 1.0})
    """Horizon in bins -> weight of decoding the mean of that many bins that follow."""
    burn_in_bins: int = 0
    """Bins at the start of a window that are read but not scored."""
    slow_gain: bool = True
    gain_memory_bins: float | None = None
    """Time constant of the slow gain in bins; null: everything since the window began."""
    latent_l2: float = 0.0
    """Weight of the mean squared latent (LDNS)."""
    latent_smoothness: float = 0.0
    """Weight of squared differences of latents 1 to 5 bins apart, each divided by 1 + lag (LDNS)."""
    row_penalty: float = 0.0
    """Weight of the mean squared unit row, of units in the batch only: decay that spares absent sessions."""

    def problems(self) -> list[str]:
        found = [
            f"{name}: expected a number in [0, 1), found {getattr(self, name)}"
            for name in ("unit_dropout", "bin_dropout", "latent_dropout")
            if not 0 <= getattr(self, name) < 1
        ]
        found += at_least(self, 1, "latents")
        found += at_least(self, 0, "burn_in_bins", "present_weight", "latent_l2", "latent_smoothness", "row_penalty")
        if self.gain_memory_bins is not None and not self.gain_memory_bins > 0:
            found.append(f"gain_memory_bins: expected null or a positive number, found {self.gain_memory_bins}")
        found += [
            f"future_weights: weight {w} at horizon {k}; expected 0 or more"
            for k, w in self.future_weights.items()
            if not w >= 0
        ]
        found += [f"future_weights: a horizon of {k} bins; expected 1 or more" for k in self.future_weights if k < 1]
        if self.present_weight <= 0 and not any(self.future_weights.values()):
            found.append("present_weight: nothing to learn, as the future weights are all zero too")
        return found


@dataclass
class UnitRows:
    """What belongs to the units of a batch; the batch dimension is 1 when all samples share a session."""

    read_in_BCD: Tensor
    read_out_BCL: Tensor
    bias_BC: Tensor
    gain_BC: Tensor
    log_sd_BC: Tensor
    mean_BC: Tensor  # mean per bin on the train split
    sd_BC: Tensor
    mask_BC: Tensor


class Autoencoder(nn.Module):
    def __init__(self, config: AutoencoderConfig, modality: str, unit_mean: Tensor, unit_sd: Tensor, sessions: int):
        """`unit_mean`, `unit_sd` (1 + units,): train statistics per bin, row 0 padding; `sessions`: how many."""
        super().__init__()
        self.config = config
        self.modality = modality
        self.observation = observation_for(modality)
        rows, width = len(unit_mean), config.encoder.width
        self.register_buffer("unit_mean", unit_mean.float().clone())
        self.register_buffer("unit_sd", unit_sd.float().clone())
        self.read_in_rows = Table(rows, width, std=0.3, decays=True)
        self.read_out_rows = Table(rows, config.latents, std=0.1, decays=True)
        self.unit_offsets = Table(rows, 3, std=0.0)  # bias, gain, log sd
        self.session_bias = Table(1 + sessions, width)
        self.encoder = Transformer(config.encoder)
        self.to_latent = nn.Linear(width, config.latents)
        self.future_maps = nn.Parameter(torch.eye(config.latents).repeat(len(config.future_weights), 1, 1))
        self.gain_strength = nn.Parameter(torch.tensor([math.log(math.expm1(7.0))]))  # softplus gives 7 bins
        with torch.no_grad():
            self.unit_offsets.weight[1:] = self.initial_offsets(unit_mean[1:])

    unit_mean: Tensor
    unit_sd: Tensor

    def initial_offsets(self, unit_mean: Tensor) -> Tensor:
        """Bias, gain and log sd a unit starts with, (units, 3): its train rate, 0.3 and 0."""
        bias = self.observation.initial_bias(unit_mean.float())
        return torch.stack((bias, torch.full_like(bias, 0.3), torch.zeros_like(bias)), dim=-1)

    def units(self, unit_rows_BC: Tensor) -> UnitRows:
        bias_BC, gain_BC, log_sd_BC = self.unit_offsets(unit_rows_BC).unbind(dim=-1)
        return UnitRows(
            read_in_BCD=self.read_in_rows(unit_rows_BC),
            read_out_BCL=self.read_out_rows(unit_rows_BC),
            bias_BC=bias_BC,
            gain_BC=gain_BC,
            log_sd_BC=log_sd_BC,
            mean_BC=self.unit_mean[unit_rows_BC],
            sd_BC=self.unit_sd[unit_rows_BC],
            mask_BC=unit_rows_BC > 0,
        )

    def encode(self, signal_BTC: Tensor, units: UnitRows, session_B: Tensor, keep_BTC: Tensor | None = None) -> Tensor:
        """latent_BTL of the raw signal; `keep_BTC` hides entries (0) and rescales the others."""
        seen_BTC = self.observation.transform(signal_BTC, units.mean_BC, units.sd_BC)
        if keep_BTC is not None:
            seen_BTC = seen_BTC * keep_BTC
        hidden_BTD = read_in(seen_BTC, units.read_in_BCD) + self.session_bias(session_B).unsqueeze(1)
        return self.to_latent(self.encoder(hidden_BTD)).float()

    def slow_level(self, signal_BTC: Tensor, units: UnitRows) -> Tensor:
        """A unit's slow term after each bin (that bin included), (B, T, C), in the decoder's output space."""
        if not self.config.slow_gain:
            return torch.zeros_like(signal_BTC, dtype=torch.float32)
        with torch.autocast(signal_BTC.device.type, enabled=False):
            target_BTC = self.observation.target(signal_BTC, units.mean_BC, units.sd_BC)
            age_TT = _age(signal_BTC.shape[1], signal_BTC.device)
            memory = self.config.gain_memory_bins
            decay = 1.0 if memory is None else math.exp(-1.0 / memory)
            past_TT = torch.where(age_TT >= 0, decay ** age_TT.clamp_min(0).float(), 0.0)
            offset_BTC = self.observation.slow_offset(
                past_TT @ target_BTC, past_TT.sum(dim=1), units.mean_BC, F.softplus(self.gain_strength.float())
            )
            return units.gain_BC.float().unsqueeze(1) * offset_BTC

    def decode(self, latent_BTL: Tensor, units: UnitRows, slow_BTC: Tensor | float = 0.0) -> Tensor:
        """Parameter of the observation model for each bin and unit (log rate, or z-scored mean), float32."""
        driven_BTC = read_out(latent_BTL, units.read_out_BCL)
        return driven_BTC.float() + units.bias_BC.float().unsqueeze(1) + slow_BTC

    def mean(self, decoded_BTC: Tensor, units: UnitRows) -> Tensor:
        """Mean of the observation in the recording's own unit (counts per bin, or the signal's unit)."""
        return self.observation.mean(decoded_BTC, units.mean_BC, units.sd_BC)

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Training loss summed over valid bins, their number, and the parts of the loss (also sums)."""
        units = self.units(batch.unit_rows_BC)
        keep_BTC, hidden_BTC = self._hide(batch.signal_BTC)
        latent_BTL = self.encode(batch.signal_BTC, units, batch.session_B, keep_BTC)
        read_BTL = F.dropout(latent_BTL, self.config.latent_dropout, self.training)
        slow_BTC = self.slow_level(batch.signal_BTC, units)
        target_BTC = self.observation.target(batch.signal_BTC, units.mean_BC, units.sd_BC)
        scored_BT = batch.bin_mask_BT & (
            torch.arange(target_BTC.shape[1], device=target_BTC.device) >= self.config.burn_in_bins
        )
        parts = self._decoding_parts(read_BTL, slow_BTC, target_BTC, scored_BT, hidden_BTC, units)
        parts |= self._penalties(latent_BTL, batch.bin_mask_BT, units)
        count = scored_BT.sum()
        return torch.stack(list(parts.values())).sum(), count, {name: part.detach() for name, part in parts.items()}

    def _hide(self, signal_BTC: Tensor) -> tuple[Tensor | None, Tensor | None]:
        unit, single = self.config.unit_dropout, self.config.bin_dropout
        if not self.training or not (unit or single):
            return None, None
        batch, bins, channels = signal_BTC.shape
        hidden_BTC = torch.rand(batch, 1, channels, device=signal_BTC.device) < unit
        if single:
            hidden_BTC = hidden_BTC | (torch.rand(batch, bins, channels, device=signal_BTC.device) < single)
        return (~hidden_BTC).float() / ((1 - unit) * (1 - single)), hidden_BTC

    def _decoding_parts(
        self,
        latent_BTL: Tensor,
        slow_BTC: Tensor,
        target_BTC: Tensor,
        scored_BT: Tensor,
        hidden_BTC: Tensor | None,
        units: UnitRows,
    ) -> dict[str, Tensor]:
        scale_B = self.observation.loss_scale(units.mean_BC, units.mask_BC)

        def summed(decoded_BTC: Tensor, wanted_BTC: Tensor, mask_BT: Tensor, weight_BTC: Tensor) -> Tensor:
            with torch.autocast(decoded_BTC.device.type, enabled=False):
                loss_BTC = self.observation.loss(decoded_BTC, wanted_BTC, units.log_sd_BC.float())
                loss_BT = (loss_BTC * weight_BTC).sum(dim=-1) / scale_B[:, None]
                return (loss_BT * mask_BT).sum()

        unit_weight_B1C = units.mask_BC.unsqueeze(1).float()
        weight_BTC = unit_weight_B1C
        if hidden_BTC is not None:
            hidden_share = 1 - (1 - self.config.unit_dropout) * (1 - self.config.bin_dropout)
            weight_BTC = weight_BTC * hidden_BTC / hidden_share
        before_BTC = F.pad(slow_BTC, (0, 0, 1, 0))[:, :-1]  # the present bin may not explain itself
        present = self.decode(latent_BTL, units, before_BTC)
        parts = {"present": self.config.present_weight * summed(present, target_BTC, scored_BT, weight_BTC)}
        for index, (bins, weight) in enumerate(self.config.future_weights.items()):
            decoded_BTC = self.decode(latent_BTL @ self.future_maps[index], units, slow_BTC)
            with torch.autocast(target_BTC.device.type, enabled=False):
                wanted_BTC = mean_of_next(target_BTC, bins)
            mask_BT = known_next(scored_BT, bins)
            parts[f"future_{bins}"] = weight * summed(decoded_BTC, wanted_BTC, mask_BT, unit_weight_B1C)
        return parts

    def _penalties(self, latent_BTL: Tensor, bin_mask_BT: Tensor, units: UnitRows) -> dict[str, Tensor]:
        config, parts = self.config, {}
        mask_BT1 = bin_mask_BT.unsqueeze(-1)
        if config.latent_l2:
            parts["latent_l2"] = config.latent_l2 * (latent_BTL.square() * mask_BT1).mean(dim=-1).sum()
        if config.latent_smoothness:
            lags = range(1, min(6, latent_BTL.shape[1]))
            squared = [
                ((latent_BTL[:, lag:] - latent_BTL[:, :-lag]).square() * mask_BT1[:, lag:]).mean(dim=-1).sum()
                / (1 + lag)
                for lag in lags
            ]
            parts["latent_smoothness"] = config.latent_smoothness * torch.stack(squared).sum()
        if config.row_penalty:
            share = units.mask_BC.float().unsqueeze(-1) / units.mask_BC.sum()
            rows = (units.read_in_BCD.square() * share).sum() + (units.read_out_BCL.square() * share).sum()
            parts["rows"] = config.row_penalty * rows * bin_mask_BT.sum()
        return parts

    def append(self, unit_mean: Tensor, unit_sd: Tensor, sessions: int) -> None:
        """Add rows for new units (their train mean and sd) and new sessions; old rows stay as they are.

        New unit rows are drawn at the spread of the old ones, so that they start as typical units.
        """

        def like(table: Table, count: int) -> Tensor:
            return torch.randn(count, table.weight.shape[1]) * table.weight[1:].std(dim=0).to("cpu")

        with torch.no_grad():
            self.read_in_rows.append(like(self.read_in_rows, len(unit_mean)))
            self.read_out_rows.append(like(self.read_out_rows, len(unit_mean)))
            self.unit_offsets.append(self.initial_offsets(unit_mean))
            self.session_bias.append(self.session_bias.weight[1:].mean(dim=0).expand(sessions, -1))
            self.unit_mean = torch.cat((self.unit_mean, unit_mean.to(self.unit_mean)))
            self.unit_sd = torch.cat((self.unit_sd, unit_sd.to(self.unit_sd)))


def mean_of_next(signal_BTC: Tensor, bins: int) -> Tensor:
    """Mean of the `bins` bins after each bin; zeros are read past the end (see `known_next`)."""
    # a banded matrix product: a cumulative sum along a middle dimension is several times slower
    ahead_TT = -_age(signal_BTC.shape[1], signal_BTC.device)
    return ((ahead_TT >= 1) & (ahead_TT <= bins)).float() @ signal_BTC / bins


def _age(bins: int, device: torch.device) -> Tensor:
    """How many bins before bin t (row) bin s (column) lies, (T, T)."""
    bin_T = torch.arange(bins, device=device)
    return bin_T[:, None] - bin_T


def known_next(mask_BT: Tensor, bins: int) -> Tensor:
    """True where a bin and the `bins` bins after it all lie inside the window."""
    return mask_BT & F.pad(mask_BT, (0, bins))[:, bins:]
