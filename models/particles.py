"""Weighted particles: as many observed bins as their number can bear, and drawing by weight.

Every observed bin that weighs particles leaves fewer that matter, and the noise of a particle's later bins says little
about its earlier ones. Besides, weights from many bins are sharper than the model is right: an error that a particle
makes in all of them counts as often as if it were independent. So bins are taken in one after the other while enough
particles are effective, and of the one that would leave too few as large a power of its likelihood as leaves enough.
P particles, H bins.
"""

import torch
from torch import Tensor

HALVINGS = 40


def effective_number(log_weights_P: Tensor) -> float:
    """1 / sum of squared normalised weights: from 1 (one particle has all) to P (all alike)."""
    return float(1 / torch.softmax(log_weights_P.double(), dim=0).square().sum())


def bearable(log_likelihood_PH: Tensor, least_effective: float) -> tuple[Tensor, float]:
    """Log weights (P,) that leave `least_effective` effective particles or more, and how many bins they take in."""
    log_weights_P = torch.zeros_like(log_likelihood_PH[:, 0])
    for bin_, added_P in enumerate(log_likelihood_PH.unbind(dim=1)):
        if effective_number(log_weights_P + added_P) < least_effective:
            power = _largest_power(log_weights_P, added_P, least_effective)
            return log_weights_P + power * added_P, bin_ + power
        log_weights_P = log_weights_P + added_P
    return log_weights_P, float(log_likelihood_PH.shape[1])


def _largest_power(log_weights_P: Tensor, added_P: Tensor, least_effective: float) -> float:
    """Of the likelihood that is added, in [0, 1), by bisection."""
    low, high = 0.0, 1.0
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        enough = effective_number(log_weights_P + middle * added_P) >= least_effective
        low, high = (middle, high) if enough else (low, middle)
    return low


def resample(log_weights_P: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Numbers of `count` particles in proportion to their weights, ascending, by systematic resampling.

    One uniform number places a comb of `count` equally spaced teeth on the cumulative weights (Kitagawa 1996), so a
    particle of weight w comes floor or ceil of count * w times.
    """
    cumulative_P = torch.softmax(log_weights_P.double().cpu(), dim=0).cumsum(dim=0)
    teeth = (torch.arange(count, dtype=torch.float64) + torch.rand(1, generator=generator, dtype=torch.float64)) / count
    return torch.searchsorted(cumulative_P, teeth, right=True).clamp(max=len(cumulative_P) - 1)
