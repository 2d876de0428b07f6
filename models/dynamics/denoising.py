"""Denoising diffusion: how noise is added, and how it is taken away again (Ho et al. 2020; Song et al. 2021).

    x_t = sqrt(a_t) x_0 + sqrt(1 - a_t) e,   e ~ N(0, I),   a_t = prod_{s <= t} (1 - beta_s),   beta linear in t

A step from t to s < t with a noise estimate e (Song et al. 2021, equation 12; eta 1 is DDPM's ancestral sampling with
its smaller variance, eta 0 the deterministic DDIM):

    x_0 = (x_t - sqrt(1 - a_t) e) / sqrt(a_t),    v = eta^2 (1 - a_s) / (1 - a_t) (1 - a_t / a_s)
    x_s = sqrt(a_s) x_0 + sqrt(1 - a_s - v) e + sqrt(v) N(0, I)
"""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from neurochorus.data_shards.settings import at_least, settings


@settings
class DiffusionConfig:
    """Settings of `order: diffusion`; LDNS's where it has them. The noise ones cannot change after training."""

    train_steps: int = 1000
    """Noise levels."""
    first_beta: float = 1e-4
    """Variance of the noise that the first level adds; those between grow in a straight line to `last_beta`."""
    last_beta: float = 0.02
    """Variance of the noise that the last level adds."""
    sampler: Literal["ddpm", "ddim"] = "ddpm"
    """ddpm: noise is added at every step; ddim: at the start only."""
    sampling_steps: int = 1000
    """Steps of the sampler, evenly spread over the noise levels."""

    @property
    def eta(self) -> float:
        return {"ddpm": 1.0, "ddim": 0.0}[self.sampler]

    def problems(self) -> list[str]:
        found = at_least(self, 1, "train_steps", "sampling_steps")
        if not 0 < self.first_beta <= self.last_beta < 1:
            found.append(
                f"first_beta: expected 0 < first_beta <= last_beta < 1, found {self.first_beta} to {self.last_beta}"
            )
        if self.sampling_steps > self.train_steps:
            found.append(f"sampling_steps: {self.sampling_steps} is more than the {self.train_steps} noise levels")
        return found


def kept_variance(config: DiffusionConfig) -> Tensor:
    """a_t of every noise level, (train_steps,) in float64, falling."""
    beta = torch.linspace(config.first_beta, config.last_beta, config.train_steps, dtype=torch.float64)
    return torch.cumprod(1 - beta, dim=0)


def denoise(
    noise: Tensor,
    estimate: Callable[[Tensor, int], Tensor],
    config: DiffusionConfig,
    draw: Callable[[], Tensor],
) -> Tensor:
    """A sample of the shape of `noise`, which is standard normal: where the steps start.

    `estimate(x, t)` is the expected noise in x at level t; `draw` gives new standard normal noise of the same shape.
    """
    kept = kept_variance(config).tolist()
    levels = torch.linspace(config.train_steps - 1, 0, config.sampling_steps, dtype=torch.float64).round().long()
    x = noise
    for place, level in enumerate(levels.tolist()):
        now, after = kept[level], kept[levels[place + 1]] if place + 1 < len(levels) else 1.0
        expected = estimate(x, level)
        clean = (x - (1 - now) ** 0.5 * expected) / now**0.5
        variance = config.eta**2 * (1 - after) / (1 - now) * (1 - now / after)
        x = after**0.5 * clean + max(0.0, 1 - after - variance) ** 0.5 * expected
        if variance > 0:
            x = x + variance**0.5 * draw()
    return x
