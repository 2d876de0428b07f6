"""What the dynamics read: whitened latents of a batch and what belongs to them.

M draws, B batch, T bins, L latent channels, K covariate columns.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from neurochorus.data_shards.batch import Batch


@dataclass(frozen=True)
class LatentSequence:
    latent_BTL: Tensor
    "Whitened."
    mask_BT: Tensor
    "bool; False after the end of a sample shorter than the longest."
    session_B: Tensor
    subject_B: Tensor
    covariates_BTK: Tensor
    "float32 in their own units, 0 where missing; for a rollout they may go on past the latents, over the horizon."
    covariate_mask_BTK: Tensor
    targets_MBTL: Tensor | None = None
    "Draws of the latents from the encoder's posterior, to be predicted instead of `latent_BTL`; None: that one."

    @classmethod
    def of(cls, latent_BTL: Tensor, batch: Batch, targets_MBTL: Tensor | None = None) -> "LatentSequence":
        """The latents of `batch` with its masks, sessions and covariates."""
        return cls(
            latent_BTL,
            batch.bin_mask_BT,
            batch.session_B,
            batch.subject_B,
            batch.covariates_BTK,
            batch.covariate_mask_BTK,
            targets_MBTL,
        )

    @classmethod
    def plain(cls, latent_BTL: Tensor, session: int = 1, subject: int = 1) -> "LatentSequence":
        """Latents of one session without covariates, all bins valid."""
        batch, bins = latent_BTL.shape[:2]
        device = latent_BTL.device
        return cls(
            latent_BTL,
            torch.ones(batch, bins, dtype=torch.bool, device=device),
            torch.full((batch,), session, device=device),
            torch.full((batch,), subject, device=device),
            torch.zeros(batch, bins, 0, device=device),
            torch.zeros(batch, bins, 0, dtype=torch.bool, device=device),
        )

    def since(self, first: int) -> "LatentSequence":
        """Without the `first` oldest bins."""
        if first == 0:
            return self
        return replace(
            self,
            latent_BTL=self.latent_BTL[:, first:],
            mask_BT=self.mask_BT[:, first:],
            covariates_BTK=self.covariates_BTK[:, first:],
            covariate_mask_BTK=self.covariate_mask_BTK[:, first:],
            targets_MBTL=None if self.targets_MBTL is None else self.targets_MBTL[:, :, first:],
        )
