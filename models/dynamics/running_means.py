"""Causal running means of latents at several scales, which the dynamics read beside the last latent.

B batch, T bins, L latent channels.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def running_means(latent_BTL: Tensor, scales: Sequence[int]) -> Tensor:
    """Means over the last k bins (fewer at the start of a window) for each scale k, (B, T, L * scales), in float32.

    Differences of sums over the whole window: in bfloat16 their rounding would grow with it.
    """
    latent_BTL = latent_BTL.float()
    bins = latent_BTL.shape[1]
    sums_BTL = F.pad(latent_BTL, (0, 0, 1, 0)).cumsum(dim=1)
    last = torch.arange(1, bins + 1, device=latent_BTL.device)
    means = [latent_BTL if k == 1 else _mean_over(sums_BTL, last, k) for k in scales]
    return torch.cat(means, dim=-1)


def _mean_over(sums_BTL: Tensor, last: Tensor, bins: int) -> Tensor:
    first = (last - bins).clamp_min(0)
    return (sums_BTL[:, last] - sums_BTL[:, first]) / (last - first)[:, None]


def last_running_means(recent_BTL: Tensor, scales: Sequence[int]) -> Tensor:
    """`running_means` at the last bin only, (B, L * scales); `recent_BTL` holds at least the longest scale."""
    return torch.cat([recent_BTL[:, -k:].mean(dim=1) for k in scales], dim=-1)
