"""The whole model: unit registry, autoencoder, whitening and dynamics; what `load` returns.

B batch, T context bins, H horizon bins, S samples, C units, L latent channels.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from neurochorus.data_shards.batch import Batch
from neurochorus.data_shards.earlier import Earlier
from neurochorus.data_shards.manifest import SessionEntry
from neurochorus.data_shards.registry import UnitRegistry
from neurochorus.data_shards.settings import parse_settings, settings
from neurochorus.models.autoencoder import Autoencoder, AutoencoderConfig
from neurochorus.models.context import context_batch, with_covariates_ahead
from neurochorus.models.dynamics import DynamicsConfig, LatentSequence, build_dynamics
from neurochorus.models.heads import HeadName, HeadsConfig
from neurochorus.models.imputation import Imputation, ImputationSettings, impute
from neurochorus.models.missing_units import scale_for_missing_units
from neurochorus.models.observing import observe, observe_each
from neurochorus.models.posterior import Posterior
from neurochorus.models.reference import LatentReference
from neurochorus.models.rollout import Rollout, expected_rate, row_generators
from neurochorus.models.units import UnitRows
from neurochorus.models.whitening import Whitening


@settings
class ModelConfig:
    head: HeadName = "energy"
    """What gives the distribution of the next latent: energy, flow, langevin or gaussian, set up in `heads`."""
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
        self.reference: LatentReference | None = None
        "What new sessions are aligned to; None in models of earlier versions."
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
        sessions, subjects = len(registry.sessions), len(registry.subjects)
        self.dynamics = build_dynamics(
            config.dynamics, config.head, config.heads, latents, sessions, subjects, config.dynamics.covariate_columns
        )

    @property
    def modality(self) -> str:
        return self.registry.sessions[0].modality

    @property
    def device(self) -> torch.device:
        return self.whitening.mean.device

    def append_sessions(self, entries: Sequence[SessionEntry], statistics: UnitStatistics | None = None) -> None:
        """Add rows and vectors for new sessions, untrained; outputs for the old ones do not change.

        `statistics` of their units; None: those of `UnitStatistics.of`.
        """
        before = self.registry
        self.registry = before.append(entries)
        statistics = UnitStatistics.of(entries) if statistics is None else statistics
        self.autoencoder.append(statistics.mean, statistics.sd, len(entries))
        self.dynamics.append(len(entries), len(self.registry.subjects) - len(before.subjects))

    def context(
        self,
        session_id: str,
        signal_BTC: np.ndarray,
        unit_ids: Sequence[str] | None = None,
        covariates: Mapping[str, np.ndarray] | None = None,
        earlier: Earlier | None = None,
    ) -> Batch:
        """A batch of one session from an array of counts (or samples of the continuous signal).

        `unit_ids` names the columns, in any order; missing units are left out (models/missing_units.py). Without it
        they must be all units in the order the model was trained on.
        `covariates`: name -> array (B, bins, d), NaN where missing; those not given are missing. They may have more
        bins than the signal: a rollout reads them over its horizon.
        `earlier`: what was recorded before each row, columns as those of the signal, for a model with a memory of it
        (`autoencoder.earlier_memory_bins`); without it units start at their train means.
        Raises ValueError for an unknown session, unit or covariate, another number of columns, and values that are no
        counts (or, for a continuous signal, not finite).
        """
        columns = self.config.dynamics.covariate_columns
        return context_batch(self.registry, columns, session_id, signal_BTC, unit_ids, covariates, earlier)

    @torch.no_grad()
    def encode(self, batch: Batch) -> Tensor:
        """Whitened latents (B, T, L) of a batch; bin t depends on bins up to t only, if the encoder is causal."""
        return self.whitening(self._posterior(batch, self.autoencoder.units_of(batch)).mean_BTL)

    @torch.no_grad()
    def draw_latents(self, batch: Batch, draws: int) -> Tensor:
        """Whitened draws (M, B, T, L) from the posterior of a variational encoder, with PyTorch's global generator."""
        posterior = self._posterior(batch, self.autoencoder.units_of(batch))
        return self.whitening(torch.stack([posterior.draw() for _ in range(draws)]))

    @torch.no_grad()
    def reconstruct(self, batch: Batch) -> Tensor:
        """Mean of the observation at each bin given the bins up to it, itself included, (B, T, C).

        An encoder that is not causal also reads the bins after it.
        """
        units = self.autoencoder.units_of(batch)
        latent_BTL = self._posterior(batch, units).mean_BTL
        own_BTC = self.autoencoder.own_past(batch.signal_BTC, units)
        return self.autoencoder.mean(self.autoencoder.decode(latent_BTL, units, own_BTC), units)

    @torch.no_grad()
    def rollout(
        self,
        context: Batch,
        horizon: int,
        samples: int,
        seed: int = 0,
        temperature: float = 1.0,
        head: str | None = None,
        covariates: Mapping[str, np.ndarray] | None = None,
        guidance: float = 1.0,
    ) -> Rollout:
        """Free-running continuation of a batch: latents (S, B, H, L), rates and counts (S, B, H, C).

        A context without bins generates from nothing, or from covariates alone. The slow per-unit gain is held at its
        value at the end of the context. A sample depends on (seed, sample id, sample number) only, not on the batch
        around it. `covariates`: name -> array (B, bins, d) over the horizon, NaN where missing, in the place of what
        `context` holds beyond its signal; missing from where they end. `guidance`: 1 is the model; above 1 samples
        follow covariates (session and subject, if the model reads none) more than the model learned to.
        """
        generators = row_generators(seed, context.sample_ids, samples)
        latents = self._simulate(context, horizon, samples, generators, temperature, head, covariates, guidance)
        units = self.autoencoder.units_of(context)
        raw = torch.stack([self.whitening.undo(latent_BHL) for latent_BHL in latents])
        rates, counts = observe(self.autoencoder, raw, units, context.signal_BTC, generators)
        assert counts is not None
        return Rollout(latents, rates, counts, self.usual_rates(units), self.config.dynamics.usual_share)

    @torch.no_grad()
    def forecast(
        self,
        context: Batch,
        horizon: int,
        samples: int,
        seed: int = 0,
        temperature: float = 1.0,
        head: str | None = None,
        covariates: Mapping[str, np.ndarray] | None = None,
        guidance: float = 1.0,
    ) -> tuple[Tensor, Tensor]:
        """`expected_rate` of a `rollout`, (B, H, C), and its latents (S, B, H, L), in little memory."""
        generators = row_generators(seed, context.sample_ids, samples)
        latents = self._simulate(context, horizon, samples, generators, temperature, head, covariates, guidance)
        units = self.autoencoder.units_of(context)
        total: Tensor | float = 0.0
        raw = torch.stack([self.whitening.undo(latent_BHL) for latent_BHL in latents])
        for rates in observe_each(self.autoencoder, raw, units, context.signal_BTC, generators):
            total = total + rates
        mean = torch.as_tensor(total) / samples
        return expected_rate(mean, self.usual_rates(units), self.config.dynamics.usual_share), latents

    def impute(
        self, batch: Batch, observed_BTC: Tensor, samples: int = 32, seed: int = 0, **settings: Any
    ) -> Imputation:
        """Fill in what `observed_BTC` (bool) says was not observed: units, bins, or single entries; see `impute`.

        `settings`: those of `ImputationSettings`, by name.
        """
        made = parse_settings(ImputationSettings, settings, "imputation")
        scale_B11 = self._scale_for_missing_units(batch)
        return impute(
            self.autoencoder, self.whitening, self.dynamics, batch, observed_BTC, samples, seed, made, scale_B11
        )

    def refuse_seen_future(self) -> None:
        """Raise ValueError when the latents of a context would know the bins after it."""
        if not self.config.autoencoder.causal:
            raise ValueError(
                "this model was trained with autoencoder.causal: false, so its latents know their future: it generates "
                "from a context without bins and reconstructs, but cannot forecast; train one with causal: true"
            )

    def usual_rates(self, units: UnitRows) -> Tensor | None:
        """Mean count of each unit in a bin of its train split, (B, 1, C); None of other signals than counts."""
        return units.mean_BC.unsqueeze(1) if self.modality == "spikes" else None

    def _posterior(self, batch: Batch, units: UnitRows) -> Posterior:
        keep_B11 = self._scale_for_missing_units(batch)
        return self.autoencoder.posterior(batch.signal_BTC, units, batch.session_B, keep_B11, batch.bin_mask_BT)

    def _scale_for_missing_units(self, batch: Batch) -> Tensor | None:
        return scale_for_missing_units(self.registry, self.autoencoder, batch) if batch.units_missing else None

    def _simulate(
        self,
        context: Batch,
        horizon: int,
        samples: int,
        generators: Sequence[torch.Generator],
        temperature: float,
        head: str | None,
        covariates: Mapping[str, np.ndarray] | None,
        guidance: float,
    ) -> Tensor:
        if not bool(context.bin_mask_BT.all()):
            raise ValueError("the context has padded bins: put samples of equal length into a batch")
        if horizon < 1 or samples < 1:
            raise ValueError(f"horizon and samples must be at least 1, found {horizon} and {samples}")
        for name, value in (("temperature", temperature), ("guidance", guidance)):
            if not 0 <= value < math.inf:
                raise ValueError(f"{name} is {value}; expected 0 or a positive number")
        if context.signal_BTC.shape[1]:
            self.refuse_seen_future()
        if covariates is not None:
            context = with_covariates_ahead(context, self.config.dynamics.covariate_columns, covariates, horizon)
        sequence = LatentSequence.of(self.encode(context), context)
        return self.dynamics.simulate(sequence, horizon, samples, generators, temperature, head, guidance).transpose(
            0, 1
        )
