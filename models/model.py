"""The whole model: unit registry, autoencoder, whitening and dynamics; what `load` returns.

B batch, T context bins, H horizon bins, S samples, C units, L latent channels.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from neurochorus.data_shards.batch import Batch
from neurochorus.data_shards.manifest import SessionEntry
from neurochorus.data_shards.recording import as_counts, as_signal
from neurochorus.data_shards.registry import UnitRegistry
from neurochorus.data_shards.settings import settings
from neurochorus.models.autoencoder import Autoencoder, AutoencoderConfig, UnitRows
from neurochorus.models.dynamics import CausalDynamics, DynamicsConfig, LatentSequence
from neurochorus.models.heads import HeadName, HeadsConfig
from neurochorus.models.rollout import Rollout, row_generators
from neurochorus.models.whitening import Whitening


@settings
class ModelConfig:
    head: HeadName = "energy"
    autoencoder: AutoencoderConfig = field(default_factory=AutoencoderConfig)
    dynamics: DynamicsConfig = field(default_factory=DynamicsConfig)
    heads: HeadsConfig = field(default_factory=HeadsConfig)


@dataclass(frozen=True)
class UnitStatistics:
    """Mean and sd per bin of each unit on the train split, in the order of the sessions' units."""

    mean: Tensor
    sd: Tensor

    @classmethod
    def of(cls, entries: Iterable[SessionEntry]) -> "UnitStatistics":
        """From manifests. Spike rates are shrunk to the session's mean rate by one pseudo-spike a unit.

        A unit that never fired in training keeps a small rate, since bits/spike punishes zero without bound:
        rate = (spikes + 1) / (bins + 1 / session mean), the mean of a gamma posterior.
        """
        means, sds = [], []
        for entry in entries:
            mean = torch.tensor(entry.unit_mean, dtype=torch.float64)
            if entry.modality == "spikes":
                session_mean = mean.mean().clamp_min(1e-6)
                mean = (mean * entry.train_bins + 1.0) / (entry.train_bins + 1.0 / session_mean)
            means.append(mean.float())
            sds.append(torch.tensor(entry.unit_sd, dtype=torch.float32))
        return cls(torch.cat(means), torch.cat(sds))


class NeuralModel(nn.Module):
    """Latent space and dynamics of the sessions in `registry`.

    `encode` and `rollout` are for use; training goes through `autoencoder` and `dynamics` (pretrain/).
    """

    def __init__(self, config: ModelConfig, registry: UnitRegistry, statistics: UnitStatistics | None = None):
        """`statistics` of all units of the registry; None leaves them to be loaded from a file."""
        super().__init__()
        self.config = config
        self.registry = registry
        units = registry.total_rows - 1
        if statistics is None:
            statistics = UnitStatistics(torch.zeros(units), torch.zeros(units))
        padding = torch.zeros(1)
        self.autoencoder = Autoencoder(
            config.autoencoder,
            self.modality,
            torch.cat((padding, statistics.mean)),
            torch.cat((padding, statistics.sd)),
            len(registry.sessions),
        )
        latents = config.autoencoder.latents
        self.whitening = Whitening(latents)
        self.dynamics = CausalDynamics(
            config.dynamics, config.head, config.heads, latents, len(registry.sessions), len(registry.subjects)
        )

    @property
    def modality(self) -> str:
        return self.registry.sessions[0].modality

    @property
    def device(self) -> torch.device:
        return self.whitening.mean.device

    def append_sessions(self, entries: Sequence[SessionEntry]) -> None:
        """Add rows and vectors for new sessions, untrained; outputs for the old ones do not change."""
        before = self.registry
        self.registry = before.append(entries)
        statistics = UnitStatistics.of(entries)
        self.autoencoder.append(statistics.mean, statistics.sd, len(entries))
        self.dynamics.append(len(entries), len(self.registry.subjects) - len(before.subjects))

    def context(self, session_id: str, signal_BTC: np.ndarray, unit_ids: Sequence[str] | None = None) -> Batch:
        """A batch of one session from an array of counts (or samples of the continuous signal).

        `unit_ids` names the columns; without it they must be all units in the order the model was trained on.
        Raises ValueError for an unknown session or unit, another number of columns, and values that are no counts
        (or, for a continuous signal, not finite).
        """
        session = self.registry.session(session_id)
        ids = list(session.unit_ids) if unit_ids is None else list(unit_ids)
        values = np.asarray(signal_BTC)
        if values.ndim != 3 or values.shape[2] != len(ids) or not len(values):
            raise ValueError(
                f"session {session_id!r}: expected an array (batch, bins, {len(ids)} units), found {values.shape}"
            )
        convert = as_counts if self.modality == "spikes" else as_signal
        signal = torch.from_numpy(convert(values, f"session {session_id!r}: the context"))
        unknown = [unit for unit in ids if unit not in session.row_of]
        if unknown or len(set(ids)) != len(ids):
            raise ValueError(
                f"session {session_id!r}: {len(unknown)} of {len(ids)} unit ids are not in the model "
                f"({', '.join(unknown[:4]) or 'some are named twice'}): give each of the recording's ids once"
            )
        batch, bins = signal.shape[:2]
        return Batch(
            signal_BTC=signal,
            unit_rows_BC=torch.tensor([[session.row_of[unit] for unit in ids]]),
            bin_mask_BT=torch.ones(batch, bins, dtype=torch.bool),
            session_B=torch.full((batch,), self.registry.session_index(session_id)),
            subject_B=torch.full((batch,), self.registry.subject_index(session.subject_id)),
            covariates_BTK=torch.zeros(batch, bins, 0),
            covariate_mask_BTK=torch.zeros(batch, bins, 0, dtype=torch.bool),
            sample_ids=[f"{session_id}-{row:06d}" for row in range(batch)],
        )

    @torch.no_grad()
    def encode(self, batch: Batch) -> Tensor:
        """Whitened latents (B, T, L) of a batch; bin t depends on bins up to t only."""
        units = self.autoencoder.units(batch.unit_rows_BC)
        return self.whitening(self.autoencoder.encode(batch.signal_BTC, units, batch.session_B))

    @torch.no_grad()
    def reconstruct(self, batch: Batch) -> Tensor:
        """Mean of the observation at each bin given the bins up to it, itself included, (B, T, C)."""
        units = self.autoencoder.units(batch.unit_rows_BC)
        latent_BTL = self.autoencoder.encode(batch.signal_BTC, units, batch.session_B)
        slow_BTC = self.autoencoder.slow_level(batch.signal_BTC, units)
        before_BTC = nn.functional.pad(slow_BTC, (0, 0, 1, 0))[:, :-1]
        return self.autoencoder.mean(self.autoencoder.decode(latent_BTL, units, before_BTC), units)

    @torch.no_grad()
    def rollout(
        self,
        context: Batch,
        horizon: int,
        samples: int,
        seed: int = 0,
        temperature: float = 1.0,
        head: str | None = None,
    ) -> Rollout:
        """Free-running continuation of a batch: latents (S, B, H, L), rates and counts (S, B, H, C).

        A context without bins generates from nothing. The slow per-unit gain is held at its value at the end
        of the context. A sample depends on (seed, sample id, sample number) only, not on the batch around it.
        """
        generators = row_generators(seed, context.sample_ids, samples)
        latents = self._simulate(context, horizon, samples, generators, temperature, head)
        units = self.autoencoder.units(context.unit_rows_BC)
        rates = torch.stack(list(self._rates(latents, context, units)))
        return Rollout(latents, rates, self._observe(rates, units, generators))

    @torch.no_grad()
    def forecast(
        self,
        context: Batch,
        horizon: int,
        samples: int,
        seed: int = 0,
        temperature: float = 1.0,
        head: str | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Mean rate over the samples of `rollout`, (B, H, C), and its latents (S, B, H, L), in little memory."""
        generators = row_generators(seed, context.sample_ids, samples)
        latents = self._simulate(context, horizon, samples, generators, temperature, head)
        units = self.autoencoder.units(context.unit_rows_BC)
        total: Tensor | float = 0.0
        for rates in self._rates(latents, context, units):
            total = total + rates
        return torch.as_tensor(total) / samples, latents

    def _simulate(
        self,
        context: Batch,
        horizon: int,
        samples: int,
        generators: Sequence[torch.Generator],
        temperature: float,
        head: str | None,
    ) -> Tensor:
        if not bool(context.bin_mask_BT.all()):
            raise ValueError("the context has padded bins: put samples of equal length into a batch")
        if horizon < 1 or samples < 1:
            raise ValueError(f"horizon and samples must be at least 1, found {horizon} and {samples}")
        if not 0 <= temperature < math.inf:
            raise ValueError(f"temperature is {temperature}; expected 0 or a positive number")
        return self.dynamics.simulate(
            LatentSequence.of(self.encode(context), context), horizon, samples, generators, temperature, head
        ).transpose(0, 1)

    def _rates(self, latents_SBHL: Tensor, context: Batch, units: UnitRows) -> Iterator[Tensor]:
        slow_B1C: Tensor | float = 0.0
        if context.signal_BTC.shape[1]:
            slow_B1C = self.autoencoder.slow_level(context.signal_BTC, units)[:, -1:]
        for latent_BHL in latents_SBHL:
            decoded_BHC = self.autoencoder.decode(self.whitening.undo(latent_BHL), units, slow_B1C)
            yield self.autoencoder.mean(decoded_BHC, units)

    def _observe(self, rates_SBHC: Tensor, units: UnitRows, generators: Sequence[torch.Generator]) -> Tensor:
        samples, batch = rates_SBHC.shape[:2]
        rates, counts = rates_SBHC.cpu(), torch.empty_like(rates_SBHC, device="cpu")
        log_sd_BC, sd_BC = units.log_sd_BC.cpu().expand(batch, -1), units.sd_BC.cpu().expand(batch, -1)
        for row in range(batch):
            one = slice(row, row + 1)
            for sample in range(samples):
                generator = generators[row * samples + sample]
                counts[sample, one] = self.autoencoder.observation.sample(
                    rates[sample, one], log_sd_BC[one], sd_BC[one], generator
                )
        return counts.to(rates_SBHC.device)
