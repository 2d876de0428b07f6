"""Mean and sd of the target given the hidden state, in which a head may standardise what it has to learn.

A head that draws y' and gives back mean(h) + sd(h) y' has only the shape of the distribution left to learn: where it
lies and how wide it is in each channel is fitted by the Gaussian likelihood (a source x_0 ~ N(mean(h), sd(h)^2) of a
flow: TSFlow, Kollovieh et al. 2025, arXiv 2410.03024). L latent channels.
"""

import math

import torch
from torch import Tensor, nn

MIN_SD = 0.01


class HiddenGaussian(nn.Module):
    """Hidden state (..., D) -> mean (..., L) and sd (..., L), in float32; 0 and 1 for every one at first."""

    def __init__(self, hidden: int, latents: int):
        super().__init__()
        self.output = nn.Linear(hidden, 2 * latents)
        nn.init.zeros_(self.output.weight)
        nn.init.zeros_(self.output.bias)

    def forward(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        with torch.autocast(hidden.device.type, enabled=False):
            mean, raw_sd = self.output(hidden.float()).chunk(2, dim=-1)
            return mean, MIN_SD + (1 - MIN_SD) * nn.functional.softplus(raw_sd + math.log(math.e - 1))


def negative_log_likelihood(mean_BTL: Tensor, sd_BTL: Tensor, target_MBTL: Tensor) -> Tensor:
    """Of the targets under N(mean, sd^2), averaged over targets and channels, (B, T), in nats a channel."""
    standardised = (target_MBTL - mean_BTL) / sd_BTL
    nats = 0.5 * standardised.square() + sd_BTL.log() + 0.5 * math.log(2 * math.pi)
    return nats.mean(dim=-1).mean(dim=0)
