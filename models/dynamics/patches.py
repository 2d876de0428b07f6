"""Patches: several bins to a token, side by side; what the head predicts of them and back to latents.

B batch, T bins, J patches of p bins, L latent channels. The head sees vectors of p * L numbers: levels of the bins, or
their increments, each against the bin before, divided by the increments' sd; the first bin of a window is a level.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from neurochorus.models.dynamics.running_means import last_running_means, running_means


def to_patches(latent_BTL: Tensor, patch_bins: int) -> Tensor:
    """(..., T, L) -> (..., J, p L); bins after the last whole patch are dropped."""
    patches, channels = latent_BTL.shape[-2] // patch_bins, latent_BTL.shape[-1]
    whole = latent_BTL[..., : patches * patch_bins, :]
    return whole.reshape(*latent_BTL.shape[:-2], patches, patch_bins * channels)


def from_patches(patch_BJL: Tensor, patch_bins: int) -> Tensor:
    """(..., J, p L) -> (..., T, L)."""
    return patch_BJL.unflatten(-1, (patch_bins, -1)).flatten(-3, -2)


def valid_patches(mask_BT: Tensor, patch_bins: int) -> Tensor:
    """(B, J), true where all bins of a patch are valid."""
    return to_patches(mask_BT.unsqueeze(-1), patch_bins).all(dim=-1)


def bins_of_patches(mask_BT: Tensor, patch_bins: int) -> Tensor:
    """Weights (B, J) of the valid patches of a sample, which sum to its valid bins, so far as it has a valid patch."""
    valid_BJ = valid_patches(mask_BT, patch_bins)
    if patch_bins == 1:
        return valid_BJ
    return valid_BJ * (mask_BT.sum(dim=1, keepdim=True) / valid_BJ.sum(dim=1, keepdim=True).clamp_min(1))


def read_of_patches(latent_BTL: Tensor, scales: Sequence[int], patch_bins: int) -> Tensor:
    """What is read of each patch: its bins (in the place of scale 1) and the running means at its last bin."""
    if patch_bins == 1:
        return running_means(latent_BTL, scales)
    means = running_means(latent_BTL, scales)[:, patch_bins - 1 :: patch_bins].chunk(len(scales), dim=-1)
    own = to_patches(latent_BTL, patch_bins)
    return torch.cat([own if scale == 1 else mean for scale, mean in zip(scales, means, strict=True)], dim=-1)


def read_of_last_patch(recent_BTL: Tensor, scales: Sequence[int], patch_bins: int) -> Tensor:
    """`read_of_patches` of the last patch only, (B, ...); `recent_BTL` holds at least the longest scale and a patch."""
    if patch_bins == 1:
        return last_running_means(recent_BTL, scales)
    own = recent_BTL[:, -patch_bins:].flatten(1)
    means = last_running_means(recent_BTL, scales).chunk(len(scales), dim=-1)
    return torch.cat([own if scale == 1 else mean for scale, mean in zip(scales, means, strict=True)], dim=-1)


def scaled_increments(level_BTL: Tensor, base_BTL: Tensor, increment_sd: Tensor, patch_bins: int) -> Tensor:
    """Increments (..., T, L) of `level_BTL` (..., T, L) in units of `increment_sd`; the first bin stays a level.

    The first bin of a patch starts from the latent before it in `base_BTL` (B, T, L), which is what the model reads;
    the others from the bin before in their own draw.
    """
    base_BTL = base_BTL.expand_as(level_BTL)
    first_T1 = (torch.arange(1, level_BTL.shape[-2], device=level_BTL.device) % patch_bins == 0).unsqueeze(-1)
    before = torch.where(first_T1, base_BTL[..., :-1, :], level_BTL[..., :-1, :])
    return torch.cat((level_BTL[..., :1, :], (level_BTL[..., 1:, :] - before) / increment_sd), dim=-2)


def latents_of_increments(drawn_BTL: Tensor, previous_BL: Tensor | None, increment_sd: Tensor) -> Tensor:
    """Levels (B, p, L) of the increments of one patch; `previous_BL` is None at the start of a window."""
    if previous_BL is not None:
        return previous_BL.unsqueeze(1) + (drawn_BTL * increment_sd).cumsum(dim=1)
    if drawn_BTL.shape[1] == 1:
        return drawn_BTL
    steps = torch.cat((drawn_BTL[:, :1], drawn_BTL[:, 1:] * increment_sd), dim=1)
    return steps.cumsum(dim=1)
