"""Sums over the bins before and after each bin of a window, as products with banded matrices.

B batch, T bins, C units. A cumulative sum along a middle dimension is several times slower.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def mean_of_next(signal_BTC: Tensor, bins: int) -> Tensor:
    """Mean of the `bins` bins after each bin; zeros are read past the end (see `known_next`)."""
    ahead_TT = -_age(signal_BTC.shape[1], signal_BTC.device)
    return ((ahead_TT >= 1) & (ahead_TT <= bins)).float() @ signal_BTC / bins


def known_next(mask_BT: Tensor, bins: int) -> Tensor:
    """True where a bin and the `bins` bins after it all lie inside the window."""
    return mask_BT & F.pad(mask_BT, (0, bins))[:, bins:]


def sum_so_far(signal_BTC: Tensor, memory_bins: float | None) -> tuple[Tensor, Tensor]:
    """Sum (B, T, C) of the bins up to each, itself included, and the weights it adds up, (T, 1).

    `memory_bins`: time constant with which older bins count less; None: all count alike.
    """
    age_TT = _age(signal_BTC.shape[1], signal_BTC.device)
    decay = 1.0 if memory_bins is None else math.exp(-1.0 / memory_bins)
    past_TT = torch.where(age_TT >= 0, decay ** age_TT.clamp_min(0).float(), 0.0)
    return past_TT @ signal_BTC, past_TT.sum(dim=1, keepdim=True)


def sum_of_others(signal_BTC: Tensor, memory_bins: float | None) -> Tensor:
    """Sum (B, T, C) of all bins but each itself, before and after it; `memory_bins` as of `sum_so_far`."""
    age_TT = _age(signal_BTC.shape[1], signal_BTC.device).abs()
    decay = 1.0 if memory_bins is None else math.exp(-1.0 / memory_bins)
    return torch.where(age_TT > 0, decay ** age_TT.float(), 0.0) @ signal_BTC


def before(values_BTC: Tensor) -> Tensor:
    """The values of the bin before each bin, zero for the first."""
    return F.pad(values_BTC, (0, 0, 1, 0))[:, :-1]


def _age(bins: int, device: torch.device) -> Tensor:
    """How many bins before bin t (row) bin s (column) lies, (T, T)."""
    bin_T = torch.arange(bins, device=device)
    return bin_T[:, None] - bin_T
