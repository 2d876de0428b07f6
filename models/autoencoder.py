"""Stage 1, the latent space: an autoencoder whose latents must also tell the future.

B batch, T bins, C units, L latent channels, D width, K history bins.

encoder   signal -> read-in rows + session bias -> transformer, causal unless told otherwise -> latent_BTL
decoder   latent_BTL -> pointwise map -> read-out rows + unit bias + what the unit's own past adds -> observation model
          (own past: a slow gain, and optionally a filter over the last bins)
futures   latent_BTL -> one L x L map a horizon -> the same decoder with the slow gain -> mean of the next k bins

Reconstruction alone gives latents that predict poorly, and a unit's slow drift fits in no shared
latent: hence the future decoders and the gain.
"""

import math
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from neurochorus.data_shards.batch import Batch
from neurochorus.models.autoencoder_config import AutoencoderConfig
from neurochorus.models.autoencoder_loss import summed_loss
from neurochorus.models.backbones.transformer import Transformer
from neurochorus.models.observations import observation_for
from neurochorus.models.observations.spike_history import filtered_past
from neurochorus.models.posterior import INITIAL_LOG_SD, Posterior
from neurochorus.models.row_prior import RowPrior
from neurochorus.models.time_windows import before, sum_of_others, sum_so_far
from neurochorus.models.units import Table, UnitRows, read_in, read_out

INITIAL_EARLIER_SHARE = 0.6


class PointwiseMap(nn.Module):
    """(..., L) -> (..., L): x + out(gelu(in(x))), with `out` zero at first."""

    def __init__(self, latents: int, hidden: int):
        super().__init__()
        self.expand = nn.Linear(latents, hidden)
        self.contract = nn.Linear(hidden, latents)
        nn.init.zeros_(self.contract.weight)
        nn.init.zeros_(self.contract.bias)

    def forward(self, latent: Tensor) -> Tensor:
        return latent + self.contract(F.gelu(self.expand(latent)))


class Autoencoder(nn.Module):
    def __init__(self, config: AutoencoderConfig, modality: str, unit_mean: Tensor, unit_sd: Tensor, sessions: int):
        """`unit_mean`, `unit_sd` (1 + units,): train statistics per bin, row 0 padding; `sessions`: how many."""
        super().__init__()
        self.config = config
        self.modality = modality
        self.observation = observation_for(config.observation, modality, config.rate)
        rows, width = len(unit_mean), config.encoder.width
        self.register_buffer("unit_mean", unit_mean.float().clone())
        self.register_buffer("unit_sd", unit_sd.float().clone())
        self.read_in_rows = Table(rows, width, std=0.3, decays=True)
        self.read_out_rows = Table(rows, config.latents, std=0.1, decays=True)
        self.unit_offsets = Table(rows, 3, std=0.0)  # bias, gain, shape
        self.history_rows = Table(rows, config.history_bins, std=0.0, decays=True) if config.history_bins else None
        self.session_bias = Table(1 + sessions, width)
        self.encoder = Transformer(config.encoder, causal=config.causal)
        self.to_latent = nn.Linear(width, config.latents * (2 if config.variational else 1))
        self.decoder = PointwiseMap(config.latents, config.decoder_hidden) if config.decoder_hidden else None
        self.future_maps = nn.Parameter(torch.eye(config.latents).repeat(len(config.future_weights), 1, 1))
        self.gain_strength = nn.Parameter(torch.tensor([math.log(math.expm1(7.0))]))  # softplus gives 7 bins
        memory = config.earlier_memory_bins
        self.earlier_strength = None if memory is None else nn.Parameter(torch.tensor([math.log(100.0)]))
        "Log of how many bins the train mean is worth against earlier activity."
        self.earlier_rows = None if memory is None else Table(rows, 1, std=0.0)
        "Share of a unit's earlier shift in level that lasts."
        self.row_prior: RowPrior | None = None
        with torch.no_grad():
            self.unit_offsets.weight[1:] = self.initial_offsets(unit_mean[1:])
            if self.earlier_rows is not None:
                self.earlier_rows.weight[1:] = INITIAL_EARLIER_SHARE
            self.to_latent.bias[config.latents :] = INITIAL_LOG_SD

    unit_mean: Tensor
    unit_sd: Tensor

    def initial_offsets(self, unit_mean: Tensor) -> Tensor:
        """Bias, gain and shape a unit starts with, (units, 3): its train rate, 0.3, and the observation's own."""
        bias = self.observation.initial_bias(unit_mean.float())
        shape = torch.full_like(bias, self.observation.initial_shape)
        return torch.stack((bias, torch.full_like(bias, 0.3), shape), dim=-1)

    def units_of(self, batch: Batch) -> UnitRows:
        """What belongs to the units of a batch, and where their slow gains start in each of its windows."""
        units = self.units(batch.unit_rows_BC)
        if self.earlier_strength is None:
            return units
        sums_BC, bins_B = batch.earlier_BC, batch.earlier_bins_B
        if sums_BC is None or bins_B is None:  # the parameters are touched all the same, as on other ranks
            sums_BC, bins_B = torch.zeros_like(units.mean_BC), torch.zeros_like(units.mean_BC[:, 0])
        with torch.autocast(sums_BC.device.type, enabled=False):
            bins_B1 = bins_B.unsqueeze(-1)
            target_BC = self.observation.summed_target(sums_BC, bins_B1, units.mean_BC, units.sd_BC)
            strength = self.earlier_strength.float().exp()
            return replace(units, start_BC=self.observation.level(target_BC, bins_B1, units.start_BC, strength))

    def units(self, unit_rows_BC: Tensor) -> UnitRows:
        """What belongs to the units of a batch of which no earlier activity is known."""
        bias_BC, gain_BC, shape_BC = self.unit_offsets(unit_rows_BC).unbind(dim=-1)
        no_history_BC0 = self.unit_mean.new_zeros(*unit_rows_BC.shape, 0)
        return UnitRows(
            read_in_BCD=self.read_in_rows(unit_rows_BC),
            read_out_BCL=self.read_out_rows(unit_rows_BC),
            bias_BC=bias_BC,
            gain_BC=gain_BC,
            shape_BC=shape_BC,
            history_BCK=no_history_BC0 if self.history_rows is None else self.history_rows(unit_rows_BC),
            mean_BC=self.unit_mean[unit_rows_BC],
            start_BC=self.observation.usual_level(self.unit_mean[unit_rows_BC]),
            earlier_BC=None if self.earlier_rows is None else self.earlier_rows(unit_rows_BC)[..., 0],
            sd_BC=self.unit_sd[unit_rows_BC],
            mask_BC=unit_rows_BC > 0,
        )

    def encode(
        self,
        signal_BTC: Tensor,
        units: UnitRows,
        session_B: Tensor,
        keep_BTC: Tensor | None = None,
        mask_BT: Tensor | None = None,
    ) -> Tensor:
        """latent_BTL of the raw signal, the posterior's mean if variational; arguments as of `posterior`."""
        return self.posterior(signal_BTC, units, session_B, keep_BTC, mask_BT).mean_BTL

    def posterior(
        self,
        signal_BTC: Tensor,
        units: UnitRows,
        session_B: Tensor,
        keep_BTC: Tensor | None = None,
        mask_BT: Tensor | None = None,
    ) -> Posterior:
        """What the encoder says of the latents of the raw signal; `keep_BTC` hides entries (0) and rescales the others.

        `mask_BT`: False in padded bins at the end; only an encoder that is not causal needs it.
        """
        seen_BTC = self.observation.transform(signal_BTC, units.mean_BC, units.sd_BC)
        if keep_BTC is not None:
            seen_BTC = seen_BTC * keep_BTC
        hidden_BTD = read_in(seen_BTC, units.read_in_BCD) + self.session_bias(session_B).unsqueeze(1)
        encoded = self.to_latent(self.encoder(hidden_BTD, mask_BT=None if self.config.causal else mask_BT))
        return Posterior.of(encoded, self.config.latents)

    def slow_level(self, signal_BTC: Tensor, units: UnitRows, observed_BTC: Tensor | None = None) -> Tensor:
        """A unit's slow term after each bin (that bin included), (B, T, C), in the decoder's output space.

        With `observed_BTC` it is the one at each bin, as told by all other observed bins before and after it (for
        imputation); zero for a unit that is observed nowhere.
        """
        if not self.config.slow_gain:
            return torch.zeros_like(signal_BTC, dtype=torch.float32)
        with torch.autocast(signal_BTC.device.type, enabled=False):
            target_BTC = self.observation.target(signal_BTC, units.mean_BC, units.sd_BC)
            memory = self.config.gain_memory_bins
            if observed_BTC is None:
                sums_BTC, weights = sum_so_far(target_BTC, memory)
            else:
                sums_BTC = sum_of_others(target_BTC * observed_BTC, memory)
                weights = sum_of_others(observed_BTC.float(), memory)
            strength, start_B1C = F.softplus(self.gain_strength.float()), units.start_BC.unsqueeze(1)
            level_BTC = self.observation.level(sums_BTC, weights, start_B1C, strength)
            slow_BTC = units.gain_BC.float().unsqueeze(1) * self.observation.shift(level_BTC, start_B1C)
            return slow_BTC + self.earlier_level(units)

    def earlier_level(self, units: UnitRows) -> Tensor | float:
        """What the units' activity before the window adds to the decoder's output, (B, 1, C); 0 without a memory."""
        if units.earlier_BC is None:
            return 0.0
        usual_BC = self.observation.usual_level(units.mean_BC)
        return (units.earlier_BC.float() * self.observation.shift(units.start_BC, usual_BC)).unsqueeze(1)

    def own_past(self, signal_BTC: Tensor, units: UnitRows, slow_BTC: Tensor | None = None) -> Tensor:
        """What each unit's own past adds to the decoder's output at a bin, that bin excluded, (B, T, C).

        The slow gain (`slow_BTC`: `slow_level`, if it is there already) and the spike history.
        """
        slow_BTC = self.slow_level(signal_BTC, units) if slow_BTC is None else slow_BTC
        first = self.earlier_level(units)
        own_BTC = before(slow_BTC - first) + first
        if self.history_rows is None:
            return own_BTC
        with torch.autocast(signal_BTC.device.type, enabled=False):
            return own_BTC + filtered_past(self.past(signal_BTC, units), units.history_BCK.float())

    def past(self, signal_BTC: Tensor, units: UnitRows) -> Tensor:
        """The signal as the history filters read it: capped, and zero on average."""
        return self.observation.past(signal_BTC, units.mean_BC, units.sd_BC, self.config.history_cap)

    def decode(self, latent_BTL: Tensor, units: UnitRows, own_BTC: Tensor | float = 0.0) -> Tensor:
        """Parameter of the observation model for each bin and unit (log rate, or z-scored mean), float32.

        `own_BTC`: what the units' own past adds (`own_past`); without it the decoder gives the rate at an average past.
        """
        if self.decoder is not None:
            latent_BTL = self.decoder(latent_BTL)
        driven_BTC = read_out(latent_BTL, units.read_out_BCL)
        return driven_BTC.float() + units.bias_BC.float().unsqueeze(1) + own_BTC

    def mean(self, decoded_BTC: Tensor, units: UnitRows) -> Tensor:
        """Mean of the observation in the recording's own unit (counts per bin, or the signal's unit)."""
        return self.observation.mean(decoded_BTC, units.mean_BC, units.sd_BC)

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Training loss summed over valid bins, their number, and the parts of the loss (also sums)."""
        own: Any = self  # type checkers meet this class under two names
        return summed_loss(own, batch)

    @torch.no_grad()
    def read_out_metric(self) -> Tensor:
        """What a small change x of the latents matters to the read-outs as x' M x, (L, L).

        The Fisher information of linear decoders of the present and the futures, by their weights in the loss, for
        log rates with each unit's train rate (Poisson) and for z-scored means (Gaussian), averaged over units.
        """
        rows_CL = self.read_out_rows.weight[1:].double()
        weight_C = self.observation.information(self.unit_mean[1:].double())
        present_LL = rows_CL.T @ (rows_CL * weight_C[:, None]) / weight_C.sum()
        metric_LL = self.config.present_weight * present_LL
        for map_LL, weight in zip(self.future_maps.double(), self.config.future_weights.values(), strict=True):
            metric_LL = metric_LL + weight * map_LL @ present_LL @ map_LL.T
        return metric_LL

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
            if self.history_rows is not None:
                self.history_rows.append(torch.zeros(len(unit_mean), self.config.history_bins))
            if self.earlier_rows is not None:
                usual = self.earlier_rows.weight[1:].mean(dim=0)
                self.earlier_rows.append(usual.expand(len(unit_mean), -1))
            self.session_bias.append(self.session_bias.weight[1:].mean(dim=0).expand(sessions, -1))
            self.unit_mean = torch.cat((self.unit_mean, unit_mean.to(self.unit_mean)))
            self.unit_sd = torch.cat((self.unit_sd, unit_sd.to(self.unit_sd)))
