"""Spike history: each unit's own last bins through a causal filter of its own (as in a GLM; LDNS, Kapoor et al. 2024).

log rate_t += sum_{k=1..K} w_k (min(s_{t-k}, cap) - mean): refractoriness, bursts and what else belongs to one unit and
so to no shared latent. One weight a lag and unit, as in LDNS, in a depthwise convolution: log-spaced boxes have fewer
weights, yet take as long.
B batch, T bins, C units, K history bins.
"""

import torch.nn.functional as F
from torch import Tensor


def filtered_past(past_BTC: Tensor, weights_BCK: Tensor) -> Tensor:
    """sum_k weights[k - 1] past[t - k] over k = 1 ... K, (B, T, C); zeros are read before the first bin.

    One batch row of `weights_BCK` serves the whole batch (one session).
    """
    batch, bins, channels = past_BTC.shape
    if bins == 0:
        return past_BTC
    lags = weights_BCK.shape[2]
    padded_BCT = F.pad(past_BTC, (0, 0, lags, 0))[:, :-1].transpose(1, 2)
    kernel = weights_BCK.flip(-1).flatten(0, 1).unsqueeze(1)  # the oldest bin first
    if weights_BCK.shape[0] == 1:
        return F.conv1d(padded_BCT, kernel, groups=channels).transpose(1, 2)
    rows = padded_BCT.reshape(1, batch * channels, -1)
    return F.conv1d(rows, kernel, groups=batch * channels).view(batch, channels, bins).transpose(1, 2)
