"""What the encoder says of a latent: its mean and, when variational, an independent Gaussian around it.

B batch, T bins, L latent channels.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

LOG_SD_RANGE = (-6.0, 2.0)
INITIAL_LOG_SD = -1.0  # the decoder should hear more signal than noise from the start


@dataclass(frozen=True)
class Posterior:
    mean_BTL: Tensor
    log_sd_BTL: Tensor | None = None
    "None: the encoder is deterministic."

    @classmethod
    def of(cls, encoded: Tensor, latents: int) -> "Posterior":
        """From the encoder's output, whose columns past the first `latents` are log sds."""
        encoded = encoded.float()
        if encoded.shape[-1] == latents:
            return cls(encoded)
        return cls(encoded[..., :latents], encoded[..., latents:].clamp(*LOG_SD_RANGE))

    def draw(self) -> Tensor:
        """A draw with PyTorch's global generator; the mean itself when the encoder is deterministic."""
        if self.log_sd_BTL is None:
            return self.mean_BTL
        return self.mean_BTL + self.log_sd_BTL.exp() * torch.randn_like(self.mean_BTL)

    def variance(self) -> Tensor:
        return torch.zeros_like(self.mean_BTL) if self.log_sd_BTL is None else (2 * self.log_sd_BTL).exp()

    def divergence(self) -> Tensor:
        """KL divergence from a standard normal for each bin and channel in nats, (B, T, L).

        KL = (mean^2 + sd^2 - 1) / 2 - log sd. Raises ValueError for a deterministic encoder, where it is infinite.
        """
        if self.log_sd_BTL is None:
            raise ValueError("a deterministic encoder has no divergence from a prior: set variational: true")
        return 0.5 * (self.mean_BTL.square() + (2 * self.log_sd_BTL).exp() - 1) - self.log_sd_BTL
