"""An explicit energy of the next latent, trained by denoising score matching, sampled by annealed Langevin dynamics.

E(y, h, sigma) stands for -log p(y | h) up to a constant of h, where p is the distribution of the target with noise
N(0, sigma^2 I) added (Song & Ermon 2019, arXiv 1907.05600; Salimans & Ho 2021 for scores that are gradients):

    E(y, h, sigma) = |y|^2 / (2 v) + sqrt(v) / sigma f(y / sqrt(v), h, sigma),    v = s^2 + sigma^2

The quadratic part is exact for targets N(0, s^2 I); f is a scalar network that starts at zero, and its factor makes
sigma times its part of the score of order one at every sigma. Loss, with y = target + sigma eps and log-uniform sigma:

    mean over channels of (eps - sigma dE/dy)^2

which an exact energy of N(0, s^2 I) brings to the mean of s^2 / v. `source: hidden` does all of this in
(y - mean(h)) / sd(h), with mean and sd fitted by the Gaussian likelihood (hidden_gaussian.py).
B rows, T tokens, D width, L latent channels, n samples, M targets.
"""

import math
from typing import Literal

import torch
from torch import Tensor

from neurochorus.data_shards.settings import at_least, settings
from neurochorus.models.heads.base import Generators, Head, drawn_targets, every_target, masked_mean, normal
from neurochorus.models.heads.energy_network import EnergyNetwork
from neurochorus.models.heads.hidden_gaussian import HiddenGaussian, negative_log_likelihood


@settings
class LangevinHeadConfig:
    width: int = 128
    blocks: int = 3
    sigma_min: float = 0.05
    """Least noise, in units of the source; details below it are smoothed away."""
    sigma_max: float = 4.0
    """Most noise; wide enough to blur all modes into one, and all correlations of channels into independence."""
    draws: int = 2
    """(eps, sigma) pairs a token in the loss."""
    level_features: int = 16
    source: Literal["standard", "hidden"] = "hidden"
    """Units of y: the target's own, or standardised by a Gaussian fitted to each hidden state."""
    residual_sd: float = 1.0
    """The s of the quadratic part: the spread that the targets are expected to have given the past, in those units."""
    levels: int = 16
    """Noise levels when sampling, from sigma_max to sigma_min in equal ratios."""
    steps: int = 1
    """Langevin steps a level."""
    predictor: bool = True
    """Go from one level to the next along the probability flow, which steps then only correct; without it samples
    stay as wide as the last level whose steps were long enough to follow."""
    step_size: float = 0.5
    """Size of a Langevin step as a share of sigma^2; below 2, where steps across narrow directions run away."""
    denoise: bool = True
    """End with the mean of the target given the sample, which takes off the noise of sigma_min (Tweedie's formula)."""

    def problems(self) -> list[str]:
        found = at_least(self, 1, "width", "blocks", "draws", "level_features", "steps")
        found += at_least(self, 2, "levels")
        if self.level_features % 2:
            found.append(f"level_features: expected an even number (sines and cosines), found {self.level_features}")
        if not 0 < self.sigma_min < self.sigma_max:
            found.append(f"sigma_min: expected 0 < sigma_min < sigma_max, found {self.sigma_min} and {self.sigma_max}")
        if not 0 < self.step_size < 2:
            found.append(f"step_size: expected a number between 0 and 2, found {self.step_size}")
        return found + ([] if self.residual_sd > 0 else ["residual_sd: expected a positive number"])


class LangevinHead(Head):
    name = "langevin"

    def __init__(self, config: LangevinHeadConfig, hidden: int, latents: int):
        super().__init__()
        self.config, self.latents = config, latents
        self.network = EnergyNetwork(hidden, latents, config.width, config.blocks, config.level_features)
        self.source = HiddenGaussian(hidden, latents) if config.source == "hidden" else None

    def loss(self, hidden_BTD: Tensor, target: Tensor, mask_BT: Tensor) -> Tensor:
        """Mean square error of the noise a channel, plus the negative log-likelihood of a hidden source."""
        target, fit = every_target(target), 0.0
        if self.source is not None:
            mean_BTL, sd_BTL = self.source(hidden_BTD)
            fit = masked_mean(negative_log_likelihood(mean_BTL, sd_BTL, target), mask_BT)
            target = (target - mean_BTL.detach()) / sd_BTL.detach()
        clean = drawn_targets(target, self.config.draws)
        noise, place = torch.randn_like(clean), torch.rand(*clean.shape[:-1], 1, device=clean.device)
        sigma = self._sigma(place)
        with torch.autocast(clean.device.type, enabled=False):
            _, score = self._energy_and_score(clean + sigma * noise, hidden_BTD, sigma)
            error = noise + sigma * score
        return masked_mean(error.square().mean(dim=-1).mean(dim=0), mask_BT) + fit

    def energy(self, hidden: Tensor, y: Tensor) -> Tensor:
        """E of states y (..., L) given hidden states (..., D) at the smallest sigma, (...), in nats.

        For the same hidden state, the difference of two energies is minus that of the log densities of the target
        smoothed by sigma_min, with two limits. Between hidden states energies differ by an unknown constant; and
        between modes with nothing between them at sigma_min, because a score does not see how much lies in each.
        """
        smallest = y.new_full((1,), self.config.sigma_min)
        if self.source is None:
            return self._energy_and_score(y.float(), hidden, smallest)[0]
        mean, sd = self.source(hidden)
        return self._energy_and_score((y - mean) / sd, hidden, smallest)[0] + sd.log().sum(dim=-1)

    def sample(self, hidden_BD: Tensor, n: int, generator: Generators, temperature: float = 1.0) -> Tensor:
        """`n` draws (n, B, L), without gradient; at temperature T, of p^(1 / T^2) as far as the steps suffice."""
        with torch.no_grad():
            x = self._anneal(hidden_BD.float(), n, generator, temperature)
            if self.source is None:
                return x
            mean_BL, sd_BL = self.source(hidden_BD)
            return mean_BL + sd_BL * x

    def _anneal(self, hidden_BD: Tensor, n: int, generator: Generators, temperature: float) -> Tensor:
        """Draws (n, B, L), followed as u = y / sqrt(v), where the quadratic part is N(0, I) at every level."""
        config = self.config
        moves = config.levels * config.steps
        noise = normal(n, len(hidden_BD), self.latents * (1 + moves), generator, hidden_BD) * temperature
        u, *kicks = noise.split(self.latents, dim=-1)
        sigmas = self._sigma(torch.linspace(1, 0, config.levels, device=u.device).unsqueeze(-1))
        for level, sigma in enumerate(sigmas):
            for kick in kicks[level * config.steps : (level + 1) * config.steps]:
                u = self._langevin_step(u, kick, hidden_BD, sigma)
            if level + 1 < config.levels:
                u = self._to_lower(u, hidden_BD, sigma, sigmas[level + 1])
        y, least = u * self._variance(sigmas[-1]).sqrt(), sigmas[-1]
        return y + least.square() * self._energy_and_score(y, hidden_BD, least)[1] if config.denoise else y

    def _langevin_step(self, u: Tensor, kick: Tensor, hidden_BD: Tensor, sigma: Tensor) -> Tensor:
        """A step of step_size sigma^2 in y; the quadratic part is solved exactly, so that N(0, s^2 I) stays so."""
        variance = self._variance(sigma)
        kept = (-self.config.step_size * sigma.square() / variance).exp()
        pull = variance.sqrt() / sigma * self.network(u, hidden_BD, self._level(sigma))[1]
        return kept * u - (1 - kept) * pull + (1 - kept.square()).sqrt() * kick

    def _to_lower(self, u: Tensor, hidden_BD: Tensor, sigma: Tensor, lower: Tensor) -> Tensor:
        """From one level to the next: y stays, or follows dy/dsigma = -sigma score.

        The latter (Song et al. 2021, arXiv 2011.13456) is du/dsigma = f'(u) / sqrt(v): no move where f is constant.
        """
        if not self.config.predictor:
            return u * (self._variance(sigma) / self._variance(lower)).sqrt()
        sd = self.config.residual_sd
        distance = torch.asinh(lower / sd) - torch.asinh(sigma / sd)
        return u + distance * self.network(u, hidden_BD, self._level(sigma))[1]

    def _sigma(self, place: Tensor) -> Tensor:
        """sigma_min at 0, sigma_max at 1, in equal ratios between."""
        return self.config.sigma_min * (self.config.sigma_max / self.config.sigma_min) ** place

    def _variance(self, sigma: Tensor) -> Tensor:
        return self.config.residual_sd**2 + sigma.square()

    def _level(self, sigma: Tensor) -> Tensor:
        """Inverse of `_sigma`."""
        return (sigma / self.config.sigma_min).log() / math.log(self.config.sigma_max / self.config.sigma_min)

    def _energy_and_score(self, y: Tensor, hidden: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """E (...) and -dE/dy (..., L) of y (..., L), hidden (..., D) and sigma (..., 1)."""
        variance = self._variance(sigma)
        value, slope = self.network(y / variance.sqrt(), hidden, self._level(sigma))
        energy = 0.5 * (y.square() / variance).sum(dim=-1) + (variance.sqrt() / sigma).squeeze(-1) * value
        return energy, -(y / variance + slope / sigma)
