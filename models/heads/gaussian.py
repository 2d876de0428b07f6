"""The Gaussian head: mean and low-rank-plus-diagonal covariance; every result is shown against it.

    y | h ~ N(mu(h), U(h) U(h)^T + diag(d(h)^2))

B rows, T tokens, D width, L latent channels, R rank, n samples, M targets. Loss in nats a channel.
"""

import torch
from torch import Tensor, nn
from torch.distributions import LowRankMultivariateNormal

from neurochorus.data_shards.settings import settings
from neurochorus.models.heads.base import Generators, Head, every_target, masked_mean, normal


@settings
class GaussianHeadConfig:
    rank: int = 4
    """Rank R of the covariance beside its diagonal."""
    min_sd: float = 0.01

    def problems(self) -> list[str]:
        return [] if self.rank >= 1 and self.min_sd > 0 else ["rank: expected 1 or more, and a positive min_sd"]


class GaussianHead(Head):
    name = "gaussian"

    def __init__(self, config: GaussianHeadConfig, hidden: int, latents: int):
        super().__init__()
        self.config, self.latents = config, latents
        self.output = nn.Linear(hidden, latents * (2 + config.rank))
        nn.init.normal_(self.output.weight, std=0.02)
        nn.init.zeros_(self.output.bias)

    def parameters_of(self, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """mu (..., L), sd of the diagonal (..., L) and U (..., L, R), in float32."""
        mean, raw_sd, factor = (
            self.output(hidden).float().split([self.latents, self.latents, self.latents * self.config.rank], dim=-1)
        )
        sd = nn.functional.softplus(raw_sd) + self.config.min_sd
        return mean, sd, factor.unflatten(-1, (self.latents, self.config.rank))

    def loss(self, hidden_BTD: Tensor, target: Tensor, mask_BT: Tensor) -> Tensor:
        with torch.autocast(hidden_BTD.device.type, enabled=False):
            mean, sd, factor = self.parameters_of(hidden_BTD.float())
            density = LowRankMultivariateNormal(mean, factor, sd.square(), validate_args=False)
            nats_BT = -density.log_prob(every_target(target)).mean(dim=0) / self.latents
            return masked_mean(nats_BT, mask_BT)

    def sample(self, hidden_BD: Tensor, n: int, generator: Generators, temperature: float = 1.0) -> Tensor:
        mean, sd, factor = self.parameters_of(hidden_BD)
        noise = normal(n, len(hidden_BD), self.latents + self.config.rank, generator, hidden_BD) * temperature
        diagonal, shared = noise.split([self.latents, self.config.rank], dim=-1)
        return mean + sd * diagonal + (factor @ shared.unsqueeze(-1)).squeeze(-1)
