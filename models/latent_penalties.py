"""LDNS's regularisers of the latents (Kapoor et al. 2024): small and smooth.

B batch, T bins, L latent channels. Both are means over channels, summed over the valid bins.
"""

import torch
from torch import Tensor

LAGS = 5


def mean_square(latent_BTL: Tensor, mask_BT: Tensor) -> Tensor:
    return (latent_BTL.square().mean(dim=-1) * mask_BT).sum()


def roughness(latent_BTL: Tensor, mask_BT: Tensor) -> Tensor:
    """Squared differences of latents 1 to 5 bins apart, those at lag k divided by 1 + k."""
    lags = range(1, min(LAGS, latent_BTL.shape[1] - 1) + 1)
    squared = [
        ((latent_BTL[:, lag:] - latent_BTL[:, :-lag]).square().mean(dim=-1) * mask_BT[:, lag:]).sum() / (1 + lag)
        for lag in lags
    ]
    return torch.stack(squared).sum() if squared else latent_BTL.sum() * 0.0
