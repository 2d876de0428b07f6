"""Counts whose variance exceeds their mean: var = mean + a mean^2, with one dispersion a = exp(shape) a unit.

A gamma-Poisson mixture: the mean of a bin is multiplied by a gamma variable of mean 1 and variance a. With r = 1/a,
log p(k) = log Gamma(k + r) - log Gamma(r) - log k! - r log(1 + a m) + k log(a m / (1 + a m)); a -> 0 is Poisson.
"""

import math

import torch
from torch import Tensor

from neurochorus.models.observations.poisson import Poisson, poisson_quantile

SHAPE_RANGE = (-8.0, 4.0)  # a from 0.0003, as good as Poisson, to 55


class NegativeBinomial(Poisson):
    name = "negative_binomial"
    initial_shape = math.log(0.1)

    def loss(self, decoded_BTC: Tensor, target_BTC: Tensor, shape_BC: Tensor) -> Tensor:
        mean_BTC, log_mean_BTC = self.mean_and_log(decoded_BTC)
        dispersion_B1C = dispersion(shape_BC).unsqueeze(1)
        spread_BTC = (target_BTC + 1 / dispersion_B1C) * torch.log1p(dispersion_B1C * mean_BTC)
        return spread_BTC - target_BTC * log_mean_BTC - log_rising(target_BTC, dispersion_B1C)

    def sample(self, mean_BTC: Tensor, shape_BC: Tensor, sd_BC: Tensor, generator: torch.Generator) -> Tensor:
        del sd_BC
        factor_BTC = _gamma(dispersion(shape_BC).unsqueeze(1).expand_as(mean_BTC), generator)
        return torch.poisson(mean_BTC * factor_BTC, generator=generator)

    def noise(self, bins: int, shape_C: Tensor, generator: torch.Generator) -> Tensor:
        """Uniform numbers and the gamma factors of the means, (2, bins, C)."""
        uniform = super().noise(bins, shape_C, generator)
        return torch.cat((uniform, _gamma(dispersion(shape_C).expand_as(uniform), generator)))

    def outcome(self, mean_BTC: Tensor, noise_KBTC: Tensor, shape_BC: Tensor, sd_BC: Tensor) -> Tensor:
        del shape_BC, sd_BC
        return poisson_quantile(mean_BTC * noise_KBTC[1], noise_KBTC[0])


def dispersion(shape: Tensor) -> Tensor:
    return shape.clamp(*SHAPE_RANGE).exp()


def log_rising(count: Tensor, dispersion: Tensor) -> Tensor:
    """log Gamma(k + r) - log Gamma(r) - k log r for r = 1 / dispersion, from elementary functions.

    For whole k it is the sum of log(1 + i / r) over i < k. float32 log-gammas lose it where r is large (their values
    are thousands of times their difference) and their derivative is slow on CPUs: so Stirling's series 4 further on.
    """
    r = 1 / dispersion
    far = r + 4
    factors = (1 + count * dispersion) * (1 + count / (r + 1)) * (1 + count / (r + 2)) * (1 + count / (r + 3))
    main = (far + count - 0.5) * torch.log1p(count / far) - count + count * torch.log1p(4 * dispersion)
    return main + _stirling_rest(far + count) - _stirling_rest(far) - factors.log()


def _stirling_rest(x: Tensor) -> Tensor:
    """log Gamma(x) less (x - 1/2) log x - x + log(2 pi) / 2; right to 4e-9 from x = 4 on."""
    square = x.square().reciprocal()
    return (1 / 12 - square * (1 / 360 - square * (1 / 1260 - square / 1680))) / x


def _gamma(dispersion: Tensor, generator: torch.Generator) -> Tensor:
    """Gamma variables of mean 1 and variance `dispersion`."""
    # torch.distributions.Gamma takes no generator; this is what it calls
    standard = torch._standard_gamma(1 / dispersion, generator=generator)  # type: ignore[reportPrivateImportUsage]
    return standard * dispersion
