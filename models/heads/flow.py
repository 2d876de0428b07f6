"""AFM: autoregressive flow matching with a full-rank, preconditioned velocity (Rogalla et al. 2026).

Path x_t = (1 - t) x_0 + t x_1 from x_0 ~ N(0, I) to the next latent x_1; the velocity regresses x_1 - x_0:

    v(x, t, h) = a(t) x + F(x, t, h),   a(t) = (t s^2 - (1 - t)) / ((1 - t)^2 + t^2 s^2)

a(t) x is the exact velocity to N(0, s^2 I), so no direction of the noise keeps its unit variance because
a narrow network cannot see it (the published model's samples are over-dispersed for that reason:
reference/afm_and_flow_matching.md 3.1), and F has only the rest to learn. At the optimum the loss of an
independent Gaussian of sd s is s pi/2 a channel.
B rows, T tokens, D width, L latent channels, n samples, W head width.
"""

import math
from typing import Literal

import torch
from torch import Tensor, nn

from neurochorus.data_shards.settings import at_least, settings
from neurochorus.models.heads.base import AdaptiveBlock, AdaptiveOutput, Generators, Head, masked_mean, normal
from neurochorus.models.heads.solvers import integrate


@settings
class FlowHeadConfig:
    width: int = 192
    blocks: int = 3
    steps: int = 8
    """Solver steps when sampling."""
    solver: Literal["euler", "midpoint", "heun", "rk4"] = "euler"
    times: Literal["uniform", "logit_normal"] = "uniform"
    """Distribution of the training times t."""
    draws: int = 2
    """Independent (x_0, t) pairs a token in the loss."""
    time_features: int = 16
    residual_sd: float = 1.0
    """The s of a(t): the spread that the targets are expected to have given the past."""

    def problems(self) -> list[str]:
        found = at_least(self, 1, "steps", "draws", "width", "blocks", "time_features")
        if self.time_features % 2:
            found.append(f"time_features: expected an even number (sines and cosines), found {self.time_features}")
        return found + ([] if self.residual_sd > 0 else ["residual_sd: expected a positive number"])


class FlowHead(Head):
    name = "flow"

    def __init__(self, config: FlowHeadConfig, hidden: int, latents: int):
        super().__init__()
        self.config, self.latents = config, latents
        self.state = nn.Linear(latents, config.width)
        self.hidden = nn.Linear(hidden, config.width)
        self.time = nn.Linear(config.time_features, config.width)
        self.blocks = nn.ModuleList([AdaptiveBlock(config.width, config.width) for _ in range(config.blocks)])
        self.output = AdaptiveOutput(config.width, config.width, latents)

    def loss(self, hidden_BTD: Tensor, target_BTL: Tensor, mask_BT: Tensor) -> Tensor:
        shape = (self.config.draws, *target_BTL.shape)
        noise = torch.randn(shape, device=target_BTL.device)
        t = torch.rand(*shape[:-1], 1, device=target_BTL.device)
        if self.config.times == "logit_normal":
            t = torch.randn_like(t).sigmoid()
        target = target_BTL.float()
        x_t = (1 - t) * noise + t * target
        error = self.velocity(x_t, t, self.hidden(hidden_BTD)).float() - (target - noise)
        return masked_mean(error.square().mean(dim=-1).mean(dim=0), mask_BT)

    def velocity(self, x: Tensor, t: Tensor, condition: Tensor) -> Tensor:
        """v(x, t, h): x (..., L), t (..., 1), `condition` = the projected hidden state, broadcastable to (..., W)."""
        condition = condition + self.time(_time_features(t, self.config.time_features))
        y = self.state(x)
        for block in self.blocks:
            y = block(y, condition)
        variance = self.config.residual_sd**2
        skip = (t * variance - (1 - t)) / ((1 - t).square() + t.square() * variance)
        return skip * x + self.output(y, condition).float()

    def sample(self, hidden_BD: Tensor, n: int, generator: Generators, temperature: float = 1.0) -> Tensor:
        x = normal(n, len(hidden_BD), self.latents, generator, hidden_BD) * temperature
        condition = self.hidden(hidden_BD)  # once a token, not once a solver step

        def velocity(x: Tensor, t: float) -> Tensor:
            return self.velocity(x, x.new_full((1, 1, 1), t), condition)

        return integrate(velocity, x, self.config.steps, self.config.solver)


def _time_features(t: Tensor, count: int) -> Tensor:
    angle = t * (math.pi * torch.arange(1, count // 2 + 1, device=t.device))
    return torch.cat((angle.sin(), angle.cos()), dim=-1)
