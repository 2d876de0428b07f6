"""A model made by hand whose dynamics and decoder are known exactly, and the exact posterior of its latents.

    s_0 ~ N(0, I),   s_t = a s_{t-1} + sqrt(1 - a^2) w_t,   x_t = C s_t + r v_t

The encoder is (C'C)^-1 C' x_t, so its latents are s_t up to the noise of one bin. Transformer blocks that add nothing
leave a final RMSNorm, which is linear where a large constant fills most of the width.
"""

import math

import numpy as np
import torch

from neurochorus.data_shards.registry import UnitRegistry
from neurochorus.models import (
    AutoencoderConfig,
    CausalDynamics,
    DynamicsConfig,
    ModelConfig,
    NeuralModel,
    TransformerConfig,
    UnitStatistics,
)
from neurochorus.models.heads.gaussian import GaussianHead
from tests.models.conftest import entry

DECAY, NOISE_SD, UNITS, LATENTS, WIDTH, CONSTANT = 0.95, 0.35, 8, 1, 16, 1000.0
READ_OUT = np.random.default_rng(3).standard_normal((UNITS, LATENTS))


def ar1_model() -> NeuralModel:
    transformer = TransformerConfig(width=WIDTH, blocks=1, heads=2, dropout=0.0)
    config = ModelConfig(
        head="gaussian",
        autoencoder=AutoencoderConfig(latents=LATENTS, encoder=transformer, slow_gain=False),
        dynamics=DynamicsConfig(transformer=transformer, target="level", history_scales=[1]),
    )
    entries = [entry("a_s1", "a", UNITS, "continuous")]
    statistics = UnitStatistics(torch.zeros(UNITS), torch.ones(UNITS))
    model = NeuralModel(config, UnitRegistry.from_sessions(entries), statistics).eval()
    read_out = torch.from_numpy(READ_OUT).float()
    constant = torch.full((WIDTH,), CONSTANT)
    constant[:LATENTS] = 0.0
    unit_norm = CONSTANT * ((WIDTH - LATENTS) / WIDTH) ** 0.5  # root mean square of the residual stream
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        autoencoder, dynamics, head = model.autoencoder, model.dynamics, model.dynamics.head
        assert isinstance(dynamics, CausalDynamics)
        assert isinstance(head, GaussianHead)
        for module in model.modules():
            if isinstance(module, torch.nn.RMSNorm):
                module.weight.fill_(1.0)
        scale = 10.0 / UNITS**0.5  # of the signal as the encoder reads it
        autoencoder.read_in_rows.weight[1:, :LATENTS] = torch.linalg.pinv(read_out).T / scale
        autoencoder.session_bias.weight[1] = constant
        autoencoder.to_latent.weight[:, :LATENTS] = unit_norm * torch.eye(LATENTS)
        autoencoder.read_out_rows.weight[1:] = read_out
        autoencoder.unit_offsets.weight[1:, 2] = math.log(NOISE_SD)
        dynamics.read.weight[:LATENTS] = torch.eye(LATENTS)
        dynamics.read.bias.copy_(constant)
        dynamics.read.bias[-1] = 0.0  # by which the start token is told from the others
        dynamics.start.copy_(constant)
        later_norm = CONSTANT * ((WIDTH - LATENTS - 1) / WIDTH) ** 0.5
        head.output.weight[:LATENTS, :LATENTS] = DECAY * later_norm * torch.eye(LATENTS)
        later, first = (raw_sd(sd, head.config.min_sd) for sd in ((1 - DECAY**2) ** 0.5, 1.0))
        head.output.bias[LATENTS : 2 * LATENTS] = later
        head.output.weight[LATENTS : 2 * LATENTS, -1] = (first - later) * unit_norm / CONSTANT
    return model


def raw_sd(sd: float, min_sd: float) -> float:
    """What the Gaussian head turns into this sd."""
    return math.log(math.expm1(sd - min_sd))


def simulate(rows: int, bins: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Latents (rows, bins, L) and signals (rows, bins, C)."""
    generator = np.random.default_rng(seed)
    latents = generator.standard_normal((rows, bins, LATENTS))
    for bin_ in range(1, bins):
        latents[:, bin_] = DECAY * latents[:, bin_ - 1] + (1 - DECAY**2) ** 0.5 * latents[:, bin_]
    return latents, latents @ READ_OUT.T + NOISE_SD * generator.standard_normal((rows, bins, UNITS))


def posterior(signal_TC: np.ndarray, observed_TC: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Exact mean and sd (bins, L) of the latents given what was observed: what the Kalman smoother gives."""
    bins = len(signal_TC)
    ages = np.abs(np.arange(bins)[:, None] - np.arange(bins))
    prior = np.kron(DECAY**ages, np.eye(LATENTS))
    precision, information = np.linalg.inv(prior), np.zeros(bins * LATENTS)
    for bin_ in range(bins):
        seen, own = READ_OUT[observed_TC[bin_]], slice(bin_ * LATENTS, (bin_ + 1) * LATENTS)
        precision[own, own] += seen.T @ seen / NOISE_SD**2
        information[own] += seen.T @ signal_TC[bin_, observed_TC[bin_]] / NOISE_SD**2
    covariance = np.linalg.inv(precision)
    return (covariance @ information).reshape(bins, -1), np.sqrt(np.diag(covariance)).reshape(bins, -1)
