"""Poisson counts, and what all count observations share.

The decoder gives the log of the mean count per bin (`rate: exp`), or the argument of a softplus (LDNS).
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from neurochorus.models.observations.base import READ_IN_POWER, Observation, RateName

LOG_RATE_LIMIT = 7.0  # exp(7) = 1,097 counts a bin: far above any neuron, far below overflow
EXACT_BELOW = 512.0  # exp(-512) is a normal float64


class Poisson(Observation):
    name = "poisson"

    def __init__(self, rate: RateName = "exp"):
        self.rate: RateName = rate

    def initial_bias(self, mean_C: Tensor) -> Tensor:
        mean_C = mean_C.clamp_min(1e-6)
        return mean_C.log() if self.rate == "exp" else mean_C + (-torch.expm1(-mean_C)).log()  # inverse of softplus

    def transform(self, signal_BTC: Tensor, mean_BC: Tensor, sd_BC: Tensor) -> Tensor:
        del sd_BC
        # square root stabilises the variance of counts; scaled so that the summed power does not grow with C
        scale_B11 = READ_IN_POWER * mean_BC.sum(dim=-1).clamp_min(1e-3).rsqrt()[:, None, None]
        return signal_BTC.float().sqrt() * scale_B11

    def target(self, signal_BTC: Tensor, mean_BC: Tensor, sd_BC: Tensor) -> Tensor:
        del mean_BC, sd_BC
        return signal_BTC.float()

    def past(self, signal_BTC: Tensor, mean_BC: Tensor, sd_BC: Tensor, cap: float) -> Tensor:
        """Counts, those above `cap` as `cap` (LDNS), less the unit's mean."""
        del sd_BC
        return signal_BTC.float().clamp(max=cap) - mean_BC.clamp(max=cap).unsqueeze(1)

    def summed_target(self, sums_BC: Tensor, bins_B1: Tensor, mean_BC: Tensor, sd_BC: Tensor) -> Tensor:
        del bins_B1, mean_BC, sd_BC
        return sums_BC

    def usual_level(self, mean_BC: Tensor) -> Tensor:
        return mean_BC.clamp_min(1e-6)

    def shift(self, level: Tensor, around: Tensor) -> Tensor:
        """Log of the gain."""
        return torch.log(level / around)

    def mean_and_log(self, decoded_BTC: Tensor) -> tuple[Tensor, Tensor]:
        """Mean count and its log."""
        if self.rate == "exp":
            log_mean_BTC = decoded_BTC.clamp(max=LOG_RATE_LIMIT)
            return log_mean_BTC.exp(), log_mean_BTC
        decoded_BTC = decoded_BTC.clamp(max=1e3)
        mean_BTC = F.softplus(decoded_BTC)
        # far below zero softplus is exp, whose log would be lost in rounding
        log_BTC = torch.where(decoded_BTC < -10.0, decoded_BTC, F.softplus(decoded_BTC.clamp(min=-10.0)).log())
        return mean_BTC, log_BTC

    def loss(self, decoded_BTC: Tensor, target_BTC: Tensor, shape_BC: Tensor) -> Tensor:
        del shape_BC
        mean_BTC, log_mean_BTC = self.mean_and_log(decoded_BTC)
        return mean_BTC - target_BTC * log_mean_BTC

    def future_loss(self, decoded_BTC: Tensor, target_BTC: Tensor, shape_BC: Tensor) -> Tensor:
        """The Poisson loss, whose minimum is at the mean whatever the distribution."""
        return Poisson.loss(self, decoded_BTC, target_BTC, shape_BC)

    def loss_scale(self, mean_BC: Tensor, unit_mask_BC: Tensor) -> Tensor:
        """Expected counts in a bin: a bin's summed loss divided by it is nats per spike."""
        return (mean_BC * unit_mask_BC).sum(dim=-1).clamp_min(1e-3)

    def information(self, mean_C: Tensor) -> Tensor:
        """The rate: that of a log rate; about that of a softplus one where rates are low."""
        return mean_C

    def mean(self, decoded_BTC: Tensor, mean_BC: Tensor, sd_BC: Tensor) -> Tensor:
        del mean_BC, sd_BC
        return self.mean_and_log(decoded_BTC.float())[0]

    def sample(self, mean_BTC: Tensor, shape_BC: Tensor, sd_BC: Tensor, generator: torch.Generator) -> Tensor:
        del shape_BC, sd_BC
        return torch.poisson(mean_BTC, generator=generator)

    def noise(self, bins: int, shape_C: Tensor, generator: torch.Generator) -> Tensor:
        """Uniform numbers, (1, bins, C)."""
        return torch.rand(1, bins, len(shape_C), generator=generator)

    def outcome(self, mean_BTC: Tensor, noise_KBTC: Tensor, shape_BC: Tensor, sd_BC: Tensor) -> Tensor:
        del shape_BC, sd_BC
        return poisson_quantile(mean_BTC, noise_KBTC[0])


def poisson_quantile(mean: Tensor, uniform: Tensor) -> Tensor:
    """The count whose cumulative probability is the first above `uniform`, so that uniform numbers give Poisson counts.

    Exact for means up to 512; above, by the Cornish-Fisher expansion, whose moments are right to 1e-3.
    """
    mean = mean.double()
    # float64: where sums in float32 end below the largest uniform number, counting would not end either
    probability = torch.exp(-mean.clamp(max=EXACT_BELOW))
    cumulative, count = probability.clone(), torch.zeros_like(mean)
    for number in range(1, int(2 * EXACT_BELOW)):
        above = uniform >= cumulative
        if not bool(above.any()):
            break
        count += above
        probability = probability * mean.clamp(max=EXACT_BELOW) / number
        cumulative += probability
    normal = torch.special.ndtri(uniform.double().clamp(1e-12, 1 - 1e-12))
    expanded = torch.floor(mean + mean.sqrt() * normal + (normal.square() + 2) / 6)
    return torch.where(mean <= EXACT_BELOW, count, expanded.clamp_min(0)).float()
