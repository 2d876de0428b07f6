"""EAG: a noise-driven generator trained with a scoring rule (Ge et al. 2025; EAR, Shao et al. 2025).

The hidden state is the residual stream of an MLP, noise on [-0.5, 0.5] steers it; n samples of each token are
scored against the target by a strictly proper rule (scoring_rules.py), of which the published one is the energy
score of n = 2 samples, beta 1. B rows, T tokens, D width, L latent channels, n samples, W head width.
"""

from dataclasses import field
from typing import Literal

import torch
from torch import Tensor, nn

from neurochorus.data_shards.settings import at_least, settings
from neurochorus.models.heads.base import (
    AdaptiveBlock,
    AdaptiveOutput,
    Generators,
    Head,
    every_target,
    masked_mean,
    uniform,
)
from neurochorus.models.heads.scoring_rules import (
    crps_loss,
    energy_score_loss,
    kernel_score_loss,
    variogram_score_loss,
)


@settings
class EnergyHeadConfig:
    width: int = 192
    """Channels of the residual stream that becomes the next latent."""
    blocks: int = 3
    """Residual blocks, each steered by the noise."""
    samples: int = 4
    """Samples a token in the loss; 2 is the paper's."""
    rule: Literal["energy", "kernel", "crps"] = "energy"
    """Strictly proper for the vector (`energy`, `kernel`) or for each channel by itself (`crps`)."""
    beta: float = 1.0
    """Power of distances in the rule `energy`."""
    kernel: Literal["gaussian", "laplace"] = "gaussian"
    """Of the rule `kernel`."""
    bandwidths: list[float] = field(default_factory=lambda: [0.25, 0.5, 1.0, 2.0])
    """Of the rule `kernel`, as multiples of sqrt(L); the score is the mean over them."""
    variogram_weight: float = 0.0
    """Weight of a variogram score of order 0.5 added to the rule, which sees how channels hang together."""
    marginal_weight: float = 0.0
    """Weight of the CRPS of each channel added to the rule. A norm over channels hardly sees how wide the narrow ones
    are: the gradient it gives to a channel is as small as that channel's share of the norm, the CRPS's is not."""
    train_temperature: float = 1.0
    """Weight of the spread between samples in the rule; 1 is proper, 0.99 draws samples together (EAR)."""
    noise: int = 64
    """Channels of uniform noise on [-0.5, 0.5]."""
    temperature_acts_on: Literal["noise", "shift"] = "noise"
    """What the temperature of sampling multiplies: the noise, or only its shift in the residual blocks (EAR)."""

    def problems(self) -> list[str]:
        found = [] if 0 < self.beta < 2 else [f"beta: the score is strictly proper for 0 < beta < 2, found {self.beta}"]
        if not 0 < self.train_temperature <= 1:
            found.append(
                f"train_temperature: above 1 the loss has no lower bound: expected a number in (0, 1], "
                f"found {self.train_temperature}"
            )
        if not self.bandwidths or not all(bandwidth > 0 for bandwidth in self.bandwidths):
            found.append(f"bandwidths: expected one or more positive numbers, found {self.bandwidths}")
        found += at_least(self, 0, "variogram_weight", "marginal_weight")
        return found + at_least(self, 2, "samples") + at_least(self, 1, "width", "blocks", "noise")


class EnergyHead(Head):
    """Raises ValueError for a variogram term on a single latent channel."""

    name = "energy"

    def __init__(self, config: EnergyHeadConfig, hidden: int, latents: int):
        super().__init__()
        if config.variogram_weight and latents < 2:
            raise ValueError("heads.energy.variogram_weight needs two latent channels or more: set it to 0")
        self.config = config
        self.stream = nn.Linear(hidden, config.width)
        self.condition = nn.Linear(config.noise, config.width)
        self.blocks = nn.ModuleList([AdaptiveBlock(config.width, config.width) for _ in range(config.blocks)])
        self.output = AdaptiveOutput(config.width, config.width, latents)

    def loss(self, hidden_BTD: Tensor, target: Tensor, mask_BT: Tensor) -> Tensor:
        """In units of the rule: those of the target to the power beta for `energy`, none for `kernel`."""
        n, (batch, tokens) = self.config.samples, mask_BT.shape
        noise = torch.rand(n, batch, tokens, self.config.noise, device=hidden_BTD.device) - 0.5
        samples = self._generate(hidden_BTD, noise).float()
        with torch.autocast(hidden_BTD.device.type, enabled=False):
            return masked_mean(self._score(samples, every_target(target)), mask_BT)

    def _score(self, samples: Tensor, target_MBTL: Tensor) -> Tensor:
        config, spread = self.config, self.config.train_temperature
        match config.rule:
            case "energy":
                score_BT = energy_score_loss(samples, target_MBTL, config.beta, spread)
            case "kernel":
                score_BT = kernel_score_loss(samples, target_MBTL, config.kernel, config.bandwidths, spread)
            case "crps":
                score_BT = crps_loss(samples, target_MBTL, spread)
            case _:
                raise ValueError(f"rule '{config.rule}' is unknown; valid: energy, kernel, crps")
        if config.variogram_weight:
            score_BT = score_BT + config.variogram_weight * variogram_score_loss(samples, target_MBTL)
        if config.marginal_weight:
            score_BT = score_BT + config.marginal_weight * crps_loss(samples, target_MBTL, spread)
        return score_BT

    def sample(self, hidden_BD: Tensor, n: int, generator: Generators, temperature: float = 1.0) -> Tensor:
        noise = uniform(n, len(hidden_BD), self.config.noise, generator, hidden_BD) - 0.5
        if self.config.temperature_acts_on == "shift":
            return self._generate(hidden_BD, noise, shift_factor=temperature).float()
        return self._generate(hidden_BD, noise * temperature).float()

    def _generate(self, hidden: Tensor, noise: Tensor, shift_factor: float = 1.0) -> Tensor:
        condition = self.condition(noise)
        x = self.stream(hidden).expand(*condition.shape[:-1], -1)
        for block in self.blocks:
            x = block(x, condition, shift_factor)
        return self.output(x, condition)
