"""EAG: a noise-driven generator trained with the energy score (Ge et al. 2025; EAR, Shao et al. 2025).

Loss for n independent samples x_i and the target y, beta in (0, 2):

    L = 2/n sum_i |x_i - y|^beta - 1/(n (n-1)) sum_{i != j} |x_i - x_j|^beta

the fair (unbiased) energy score, twice `scoringrules.es_ensemble(estimator="fair")` at beta 1; n = 2 is
the published two-sample form. B rows, T tokens, D width, L latent channels, n samples, W head width.
"""

import torch
from torch import Tensor, nn

from neurochorus.data_shards.settings import at_least, settings
from neurochorus.models.heads.base import AdaptiveBlock, AdaptiveOutput, Generators, Head, masked_mean, uniform


@settings
class EnergyHeadConfig:
    width: int = 192
    blocks: int = 3
    samples: int = 4
    """Samples a token in the loss; 2 is the paper's."""
    beta: float = 1.0
    noise: int = 64
    """Channels of uniform noise on [-0.5, 0.5]."""

    def problems(self) -> list[str]:
        found = [] if 0 < self.beta < 2 else [f"beta: the score is strictly proper for 0 < beta < 2, found {self.beta}"]
        return found + at_least(self, 2, "samples") + at_least(self, 1, "width", "blocks", "noise")


class EnergyHead(Head):
    name = "energy"

    def __init__(self, config: EnergyHeadConfig, hidden: int, latents: int):
        super().__init__()
        self.config = config
        self.stream = nn.Linear(hidden, config.width)
        self.condition = nn.Linear(config.noise, config.width)
        self.blocks = nn.ModuleList([AdaptiveBlock(config.width, config.width) for _ in range(config.blocks)])
        self.output = AdaptiveOutput(config.width, config.width, latents)

    def loss(self, hidden_BTD: Tensor, target_BTL: Tensor, mask_BT: Tensor) -> Tensor:
        n, (batch, tokens) = self.config.samples, target_BTL.shape[:2]
        noise = torch.rand(n, batch, tokens, self.config.noise, device=hidden_BTD.device) - 0.5
        samples = self._generate(hidden_BTD, noise).float()
        with torch.autocast(hidden_BTD.device.type, enabled=False):
            return masked_mean(energy_score_loss(samples, target_BTL.float(), self.config.beta), mask_BT)

    def sample(self, hidden_BD: Tensor, n: int, generator: Generators, temperature: float = 1.0) -> Tensor:
        noise = (uniform(n, len(hidden_BD), self.config.noise, generator, hidden_BD) - 0.5) * temperature
        return self._generate(hidden_BD, noise).float()

    def _generate(self, hidden: Tensor, noise: Tensor) -> Tensor:
        condition = self.condition(noise)
        x = self.stream(hidden).expand(*condition.shape[:-1], -1)
        for block in self.blocks:
            x = block(x, condition)
        return self.output(x, condition)


def energy_score_loss(samples: Tensor, target: Tensor, beta: float = 1.0) -> Tensor:
    """Twice the fair energy score, samples (n, ..., L) against target (..., L); result (...)."""
    n = samples.shape[0]
    to_target = _distance(samples - target, beta).mean(dim=0)
    first, second = torch.triu_indices(n, n, offset=1, device=samples.device)
    between = _distance(samples[first] - samples[second], beta).mean(dim=0)
    return 2 * to_target - between


def _distance(difference: Tensor, beta: float) -> Tensor:
    # the floor keeps the gradient finite where two samples coincide, as all do before the first step
    norm = difference.square().sum(dim=-1).clamp_min(1e-12).sqrt()
    return norm if beta == 1.0 else norm.pow(beta)
