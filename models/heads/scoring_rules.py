"""Strictly proper scoring rules of n independent samples x_i and a target y, as losses.

All are fair: their expectation over the samples does not depend on n, so the true distribution is the best for any
n >= 2 (an unfair form favours too little spread: Ferro 2014, doi 10.1002/qj.2270). All but the variogram score are
2/n sum_i d(x_i, y) minus `spread` times the mean of d(x_i, x_j) over i != j; `spread` 1 is proper, below 1 the samples
end nearer together (EAR, Shao et al. 2025, trains the last epochs with 0.99), above 1 the loss has no lower bound.

Shapes: samples (n, ..., L), target (..., L) or (M, ..., L): of several targets the mean loss; result (...). Not to be
called under autocast: distances of bfloat16 numbers are coarse.
"""

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

LEAST_DISTANCE = 1e-6
"""Floor of distances before a power below or above 1, whose gradient has no limit where two samples coincide."""

MOST_PAIRS = 256
"""Pairs of channels a variogram score looks at; of more than 23 channels, as many drawn anew in each call."""


def energy_score_loss(samples: Tensor, target: Tensor, beta: float = 1.0, spread: float = 1.0) -> Tensor:
    """Twice the fair energy score, d = |x - y|^beta with the Euclidean norm over L (Gneiting & Raftery 2007).

    Strictly proper for beta in (0, 2).
    """
    to_target, between = _distances(samples, target)
    if beta != 1.0:
        to_target, between = (d.clamp_min(LEAST_DISTANCE).pow(beta) for d in (to_target, between))
    return 2 * to_target.mean(dim=-1) - spread * between.mean(dim=-1)


def kernel_score_loss(
    samples: Tensor,
    target: Tensor,
    kernel: Literal["gaussian", "laplace"],
    bandwidths: Sequence[float],
    spread: float = 1.0,
) -> Tensor:
    """Twice the fair kernel score, d = 1 - k averaged over kernels k of several bandwidths; at most 2.

    With r = |x - y| / (bandwidth sqrt(L)): k = exp(-r^2 / 2) (`gaussian`) or exp(-r) (`laplace`). The expectation
    is the squared maximum mean discrepancy plus what no forecast can change.
    """
    to_target, between = _distances(samples, target)

    def dissimilarity(distance: Tensor) -> Tensor:
        relative = [distance / (bandwidth * math.sqrt(samples.shape[-1])) for bandwidth in bandwidths]
        kernels = [(-0.5 * r.square()).exp() if kernel == "gaussian" else (-r).exp() for r in relative]
        return 1 - torch.stack(kernels).mean(dim=0)

    return 2 * dissimilarity(to_target).mean(dim=-1) - spread * dissimilarity(between).mean(dim=-1)


def crps_loss(samples: Tensor, target: Tensor, spread: float = 1.0) -> Tensor:
    """Twice the fair continuous ranked probability score of each channel, averaged over channels.

    Proper for each channel, blind to how channels hang together. Pairs are never formed: sorted,
    sum_{i<j} |x_i - x_j| = sum_i (2 i - n - 1) x_(i) for i = 1 ... n.
    """
    n = samples.shape[0]
    targets = _each_target(samples, target)
    to_target = (samples.unsqueeze(1) - targets).abs().mean(dim=(0, 1, -1))
    weight = torch.arange(1 - n, n, 2, device=samples.device, dtype=samples.dtype)
    ordered = samples.sort(dim=0).values
    between = torch.einsum("n,n...l->...", weight, ordered) * (2 / (n * (n - 1) * samples.shape[-1]))
    return 2 * to_target - spread * between


def variogram_score_loss(samples: Tensor, target: Tensor) -> Tensor:
    """Fair variogram score of order 0.5, averaged over pairs of channels (Scheuerer & Hamill 2015, eq. 4).

    For a pair (k, l) of channels with v(x) = |x_k - x_l|^0.5 the published score (v(y) - mean_i v(x_i))^2 exceeds
    its limit of many samples by var(v(x)) / n and so rewards too little spread; here

        v(y)^2 - 2 v(y) mean_i v(x_i) + mean_{i != j} v(x_i) v(x_j)

    which is unbiased for any n (`scoringrules.vs_ensemble(estimator="fair")` over L (L - 1)) and may be negative.
    Proper but not strictly: add it to a strictly proper rule.
    """
    n = samples.shape[0]
    first, second = _channel_pairs(samples.shape[-1], samples.device)

    def variogram(x: Tensor) -> Tensor:
        # smooth at zero; any function of x in place of v leaves the score proper
        return ((x[..., first] - x[..., second]).square() + 1e-6).pow(0.25)

    of_samples, of_target = variogram(samples), variogram(_each_target(samples, target))
    mean = of_samples.mean(dim=0)
    error = (of_target - mean).square().mean(dim=0)
    return (error - of_samples.var(dim=0) / n).mean(dim=-1)


def _each_target(samples: Tensor, target: Tensor) -> Tensor:
    """(M, ..., L) of a target of either shape."""
    return target if target.ndim == samples.ndim else target.unsqueeze(0)


def _distances(samples: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """|x_i - y_m| (..., n M) and |x_i - x_j| for i < j (..., n (n - 1) / 2); gradient zero where two coincide.

    Differences of all pairs are never stored, only their norms.
    """
    n = samples.shape[0]
    x, y = samples.movedim(0, -2), _each_target(samples, target).movedim(0, -2)
    exact = "donot_use_mm_for_euclid_dist"  # by matrix products, small distances of large vectors would be lost
    first, second = torch.triu_indices(n, n, offset=1, device=samples.device)
    to_target = torch.cdist(x, y, compute_mode=exact).flatten(-2)
    return to_target, torch.cdist(x, x, compute_mode=exact)[..., first, second]


def _channel_pairs(channels: int, device: torch.device) -> tuple[Tensor, Tensor]:
    first, second = torch.triu_indices(channels, channels, offset=1, device=device)
    if len(first) > MOST_PAIRS:
        chosen = torch.randperm(len(first), device=device)[:MOST_PAIRS]
        first, second = first[chosen], second[chosen]
    return first, second
