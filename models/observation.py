"""Observation models: from what the decoder says about a unit's bin to loss, mean and samples.

B batch, T bins, C units. Both classes have the same methods, so the autoencoder knows nothing else
about the modality:
  `transform`   the signal as the encoder reads it
  `slow_offset` what a unit's own past says about its present level, to be added to the decoder's output
  `loss`        negative log likelihood per entry in nats, without terms that do not depend on the model
  `mean`, `sample`  in the units of the recording (counts per bin, or the signal's own unit)
"""

import math

import torch
from torch import Tensor

READ_IN_POWER = 10.0
"""Root of the summed power of a bin as the encoder reads it, whatever the number of units. It sets how fast read-in
rows learn, since Adam moves every row at the same speed: 1,500 steps on steinmetz2019 gave a direct forecast of 0.099
bits/spike at 1 and 0.122 at 4 (one seed; RESULTS.md)."""
LOG_RATE_LIMIT = 7.0  # exp(7) = 1,097 counts a bin: far above any neuron, far below overflow


class Poisson:
    """Counts; the decoder gives the log of the mean count per bin."""

    name = "poisson"

    @staticmethod
    def initial_bias(mean_C: Tensor) -> Tensor:
        return mean_C.clamp_min(1e-6).log()

    @staticmethod
    def transform(signal_BTC: Tensor, mean_BC: Tensor, sd_BC: Tensor) -> Tensor:
        del sd_BC
        # square root stabilises the variance of counts; scaled so that the summed power does not grow with C
        scale_B11 = READ_IN_POWER * mean_BC.sum(dim=-1).clamp_min(1e-3).rsqrt()[:, None, None]
        return signal_BTC.float().sqrt() * scale_B11

    @staticmethod
    def slow_offset(sums_BTC: Tensor, weights_T: Tensor, mean_BC: Tensor, strength: Tensor) -> Tensor:
        """Log of the gamma-Poisson posterior mean of a unit's gain, (sum + A r) / ((n + A) r).

        sums_BTC: counts so far; weights_T: bins so far; strength: A in bins; r: the unit's train rate.
        """
        rate_B1C = mean_BC.clamp_min(1e-6).unsqueeze(1)
        prior = strength * rate_B1C
        return torch.log((sums_BTC + prior) / ((weights_T[:, None] + strength) * rate_B1C))

    @staticmethod
    def loss(log_rate_BTC: Tensor, signal_BTC: Tensor, log_sd_BC: Tensor) -> Tensor:
        del log_sd_BC
        log_rate_BTC = log_rate_BTC.clamp(max=LOG_RATE_LIMIT)
        return log_rate_BTC.exp() - signal_BTC * log_rate_BTC

    @staticmethod
    def loss_scale(mean_BC: Tensor, unit_mask_BC: Tensor) -> Tensor:
        """Expected counts in a bin, (B,): a bin's summed loss divided by it is nats per spike."""
        return (mean_BC * unit_mask_BC).sum(dim=-1).clamp_min(1e-3)

    @staticmethod
    def target(signal_BTC: Tensor, mean_BC: Tensor, sd_BC: Tensor) -> Tensor:
        del mean_BC, sd_BC
        return signal_BTC.float()

    @staticmethod
    def mean(log_rate_BTC: Tensor, mean_BC: Tensor, sd_BC: Tensor) -> Tensor:
        del mean_BC, sd_BC
        return log_rate_BTC.float().clamp(max=LOG_RATE_LIMIT).exp()

    @staticmethod
    def sample(mean_BTC: Tensor, log_sd_BC: Tensor, sd_BC: Tensor, generator: torch.Generator) -> Tensor:
        del log_sd_BC, sd_BC
        return torch.poisson(mean_BTC, generator=generator)


class Gaussian:
    """Continuous signals, z-scored with each unit's train statistics; one learned noise sd a unit."""

    name = "gaussian"

    @staticmethod
    def initial_bias(mean_C: Tensor) -> Tensor:
        return torch.zeros_like(mean_C)

    @staticmethod
    def target(signal_BTC: Tensor, mean_BC: Tensor, sd_BC: Tensor) -> Tensor:
        return (signal_BTC.float() - mean_BC.unsqueeze(1)) / sd_BC.clamp_min(1e-6).unsqueeze(1)

    @staticmethod
    def transform(signal_BTC: Tensor, mean_BC: Tensor, sd_BC: Tensor) -> Tensor:
        channels_B11 = (sd_BC > 0).sum(dim=-1).clamp_min(1)[:, None, None]
        return Gaussian.target(signal_BTC, mean_BC, sd_BC) * (READ_IN_POWER * channels_B11.float().rsqrt())

    @staticmethod
    def slow_offset(sums_BTC: Tensor, weights_T: Tensor, mean_BC: Tensor, strength: Tensor) -> Tensor:
        """Posterior mean of a unit's offset, sum / (n + A), for z-scored sums and prior strength A in bins."""
        del mean_BC
        return sums_BTC / (weights_T[:, None] + strength)

    @staticmethod
    def loss(mean_BTC: Tensor, signal_BTC: Tensor, log_sd_BC: Tensor) -> Tensor:
        log_sd_B1C = log_sd_BC.clamp(-6.0, 3.0).unsqueeze(1)
        return 0.5 * ((signal_BTC - mean_BTC) / log_sd_B1C.exp()).square() + log_sd_B1C + 0.5 * math.log(2 * math.pi)

    @staticmethod
    def loss_scale(mean_BC: Tensor, unit_mask_BC: Tensor) -> Tensor:
        """Number of channels, (B,): a bin's summed loss divided by it is nats per channel."""
        del mean_BC
        return unit_mask_BC.sum(dim=-1).clamp_min(1).float()

    @staticmethod
    def mean(mean_BTC: Tensor, mean_BC: Tensor, sd_BC: Tensor) -> Tensor:
        return mean_BTC.float() * sd_BC.unsqueeze(1) + mean_BC.unsqueeze(1)

    @staticmethod
    def sample(mean_BTC: Tensor, log_sd_BC: Tensor, sd_BC: Tensor, generator: torch.Generator) -> Tensor:
        noise = torch.randn(mean_BTC.shape, generator=generator)
        return mean_BTC + noise * (log_sd_BC.clamp(-6.0, 3.0).exp() * sd_BC).unsqueeze(1)


def observation_for(modality: str) -> type[Poisson] | type[Gaussian]:
    """The observation model of a modality: Poisson for `spikes`, Gaussian for `continuous`."""
    match modality:
        case "spikes":
            return Poisson
        case "continuous":
            return Gaussian
        case _:
            raise ValueError(f"modality is '{modality}'; expected 'spikes' or 'continuous'")
