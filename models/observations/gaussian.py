"""Continuous signals, z-scored with each unit's train statistics; the decoder gives the mean z-score.

`shape` is the log of a unit's noise sd, in z-scores.
"""

import math

import torch
from torch import Tensor

from neurochorus.models.observations.base import READ_IN_POWER, Observation

ROUNDING = 1e-7


class Gaussian(Observation):
    name = "gaussian"

    def initial_bias(self, mean_C: Tensor) -> Tensor:
        return torch.zeros_like(mean_C)

    def transform(self, signal_BTC: Tensor, mean_BC: Tensor, sd_BC: Tensor) -> Tensor:
        channels_B11 = (sd_BC > 0).sum(dim=-1).clamp_min(1)[:, None, None]
        return self.target(signal_BTC, mean_BC, sd_BC) * (READ_IN_POWER * channels_B11.float().rsqrt())

    def target(self, signal_BTC: Tensor, mean_BC: Tensor, sd_BC: Tensor) -> Tensor:
        return _in_sd(signal_BTC.float() - mean_BC.unsqueeze(1), mean_BC.unsqueeze(1), sd_BC.unsqueeze(1))

    def past(self, signal_BTC: Tensor, mean_BC: Tensor, sd_BC: Tensor, cap: float) -> Tensor:
        """z-scores between -cap and cap."""
        return self.target(signal_BTC, mean_BC, sd_BC).clamp(-cap, cap)

    def summed_target(self, sums_BC: Tensor, bins_B1: Tensor, mean_BC: Tensor, sd_BC: Tensor) -> Tensor:
        return _in_sd(sums_BC - bins_B1 * mean_BC, mean_BC, sd_BC)

    def usual_level(self, mean_BC: Tensor) -> Tensor:
        return torch.zeros_like(mean_BC)

    def shift(self, level: Tensor, around: Tensor) -> Tensor:
        return level - around

    def loss(self, decoded_BTC: Tensor, target_BTC: Tensor, shape_BC: Tensor) -> Tensor:
        log_sd_B1C = log_sd(shape_BC).unsqueeze(1)
        squared_BTC = ((target_BTC - decoded_BTC) / log_sd_B1C.exp()).square()
        return 0.5 * squared_BTC + log_sd_B1C + 0.5 * math.log(2 * math.pi)

    def future_loss(self, decoded_BTC: Tensor, target_BTC: Tensor, shape_BC: Tensor) -> Tensor:
        """Squared error in units of the noise of one bin, which it does not change."""
        return self.loss(decoded_BTC, target_BTC, shape_BC.detach())

    def loss_scale(self, mean_BC: Tensor, unit_mask_BC: Tensor) -> Tensor:
        """Number of channels: a bin's summed loss divided by it is nats per channel."""
        del mean_BC
        return unit_mask_BC.sum(dim=-1).clamp_min(1).float()

    def information(self, mean_C: Tensor) -> Tensor:
        """1: that of a z-scored mean at unit noise."""
        return torch.ones_like(mean_C)

    def mean(self, decoded_BTC: Tensor, mean_BC: Tensor, sd_BC: Tensor) -> Tensor:
        return decoded_BTC.float() * sd_BC.unsqueeze(1) + mean_BC.unsqueeze(1)

    def sample(self, mean_BTC: Tensor, shape_BC: Tensor, sd_BC: Tensor, generator: torch.Generator) -> Tensor:
        return self.outcome(mean_BTC, torch.randn(1, *mean_BTC.shape, generator=generator), shape_BC, sd_BC)

    def noise(self, bins: int, shape_C: Tensor, generator: torch.Generator) -> Tensor:
        """Standard normal numbers, (1, bins, C)."""
        return torch.randn(1, bins, len(shape_C), generator=generator)

    def outcome(self, mean_BTC: Tensor, noise_KBTC: Tensor, shape_BC: Tensor, sd_BC: Tensor) -> Tensor:
        return mean_BTC + noise_KBTC[0] * (log_sd(shape_BC).exp() * sd_BC).unsqueeze(1)


def log_sd(shape: Tensor) -> Tensor:
    return shape.clamp(-6.0, 3.0)


def _in_sd(deviation: Tensor, mean: Tensor, sd: Tensor) -> Tensor:
    """Deviations in standard deviations, whatever the unit; 0 where the train split says nothing of the spread.

    An sd of less than float32 can tell beside the mean is that of rounding.
    """
    known = sd > ROUNDING * mean.abs()
    return torch.where(known, deviation / torch.where(known, sd, 1.0), 0.0)
