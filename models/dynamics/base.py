"""What the orders of the dynamics share: the condition (session, subject, covariates), guidance and heads.

B batch, T bins, J tokens (one a patch of bins), D width, L latent channels, A rows of all streams of a guided rollout.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from neurochorus.models.dynamics.covariates import CovariateReader
from neurochorus.models.dynamics.sequence import LatentSequence
from neurochorus.models.heads import Generators, Head
from neurochorus.models.units import Table

if TYPE_CHECKING:  # the settings import the settings of each order, which live beside their owners
    from neurochorus.models.dynamics.config import DynamicsConfig


class Dynamics(nn.Module):
    """A distribution of whitened latents given those before, session, subject and covariates."""

    input_vectors = ("positions", "buffer_vectors")
    "Parameters that are vectors of the width, one a row: no matrices that read from it."
    head: Head
    companion: Head | None
    increment_sd: Tensor

    def __init__(
        self,
        config: "DynamicsConfig",
        width: int,
        latents: int,
        sessions: int,
        subjects: int,
        covariates: Mapping[str, int],
    ):
        """`covariates`: number of columns of each one that the settings name, in their order."""
        super().__init__()
        self.config, self.width, self.latents = config, width, latents
        self.session_vectors = Table(1 + sessions, width)
        self.subject_vectors = Table(1 + subjects, width)
        self.covariates = None
        if config.covariates or covariates:
            self.covariates = CovariateReader(config.covariates, covariates, width, config.patch_bins)
        if config.positions:
            self.positions = nn.Parameter(0.02 * torch.randn(config.positions, width))
        self.companion = None
        self.register_buffer("increment_sd", torch.ones(latents))

    def forward(self, sequence: LatentSequence) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Training loss summed over valid bins, their number, and the parts of the loss (also sums, detached)."""
        raise NotImplementedError

    def simulate(
        self,
        context: LatentSequence,
        horizon: int,
        samples: int,
        generator: Generators,
        temperature: float = 1.0,
        head: str | None = None,
        guidance: float = 1.0,
    ) -> Tensor:
        """Free-running continuation of whitened latents, (B, samples, horizon, L), without gradients.

        The context may have no bins (then the first latent is drawn too); its covariates may go on over the horizon,
        and are missing from where they end. `generator`: one, or one for each (row, sample) in row-major order.
        `temperature` scales the noise. `head` "gaussian" uses the companion instead of the head. `guidance` 1 is the
        model; above 1 it follows its condition more than it learned to, at 0 not at all (see `guided`).
        """
        raise NotImplementedError

    def append(self, sessions: int, subjects: int) -> None:
        """Add vectors for new sessions and subjects, each starting at the mean of the known ones."""
        with torch.no_grad():
            for table, count in ((self.session_vectors, sessions), (self.subject_vectors, subjects)):
                table.append(table.weight[1:].mean(dim=0).expand(count, -1))

    def set_covariate_statistics(self, mean: Tensor, sd: Tensor) -> None:
        """Mean and sd of each covariate column on the train split, (K,) each; before training."""
        if self.covariates is None:
            raise ValueError("these dynamics read no covariates: name them in model.dynamics.covariates")
        self.covariates.set_statistics(mean, sd)

    def condition(self, sequence: LatentSequence, bins: int, unconditional: bool = False) -> Tensor:
        """What is added to the tokens of the patches in the first `bins` bins, (B, J, D), or (B, 1, D) for all alike.

        Session, subject, covariates, and the place in the window where places are learned.

        In training session and subject are dropped together, and covariates independently of them, for
        `condition_dropout` of the samples, and those known in the past end early in `covariate_endings` of them.
        `unconditional`: without covariates if the model reads any, else without
        session and subject.
        """
        vector_BD = self.session_vectors(sequence.session_B) + self.subject_vectors(sequence.subject_B)
        condition_B1D = self._kept(vector_BD.unsqueeze(1))
        places: Tensor | float = self._places(bins // self.config.patch_bins) if self.config.positions else 0.0
        if self.covariates is None:
            return (condition_B1D * 0.0 if unconditional else condition_B1D) + places
        if self.training:
            sequence = self.covariates.with_endings(sequence, self.config.covariate_endings)
        driven_BJD = self._kept(self.covariates(sequence, bins))
        return condition_B1D + (driven_BJD * 0.0 if unconditional else driven_BJD) + places

    def _places(self, tokens: int) -> Tensor:
        """Learned vectors of the first tokens of a window, (J, D)."""
        if tokens > len(self.positions):
            patch = self.config.patch_bins
            raise ValueError(
                f"{tokens * patch} bins, and learned places of {len(self.positions) * patch}: set "
                f"model.dynamics.positions to {tokens} or more before training, or ask for fewer bins"
            )
        return self.positions[:tokens]

    def whole_patches(self, context: LatentSequence) -> LatentSequence:
        """The context without its oldest bins that do not fill a patch. Raises ValueError where places are learned."""
        extra = context.latent_BTL.shape[1] % self.config.patch_bins
        if extra and self.config.positions:
            raise ValueError(
                f"a context of {context.latent_BTL.shape[1]} bins: with learned places (model.dynamics.positions) it "
                f"must be a multiple of the {self.config.patch_bins} bins of a patch"
            )
        return context.since(extra)

    def sampling_condition(self, sequence: LatentSequence, bins: int, guidance: float) -> Tensor:
        """`condition` of all streams of a rollout: B rows, and with guidance B unconditional ones after them."""
        own = self.condition(sequence, bins)
        return own if guidance == 1 else torch.cat((own, self.condition(sequence, bins, unconditional=True)))

    @staticmethod
    def guided(hidden: Tensor, guidance: float) -> Tensor:
        """g h_condition + (1 - g) h_unconditional of the two streams in `hidden` (EAR, Shao et al. 2025)."""
        if guidance == 1:
            return hidden
        with_condition, without = hidden.chunk(2)
        return guidance * with_condition + (1 - guidance) * without

    def _kept(self, condition_BJD: Tensor) -> Tensor:
        if not (self.training and self.config.condition_dropout):
            return condition_BJD
        kept_B11 = torch.rand(len(condition_BJD), 1, 1, device=condition_BJD.device) >= self.config.condition_dropout
        return condition_BJD * kept_B11

    def _noisy(self, latent_BTL: Tensor) -> Tensor:
        """What is read of the latents in training: with noise, since a rollout reads what it drew."""
        if not (self.training and self.config.history_noise):
            return latent_BTL
        level: Tensor | float = self.config.history_noise
        if self.config.noise_spread == "uniform":
            level = level * torch.rand(len(latent_BTL), 1, 1, device=latent_BTL.device)
        return latent_BTL + level * torch.randn_like(latent_BTL)

    def _chosen_head(self, name: str | None) -> Head:
        if name is None or name == self.head.name:
            return self.head
        if self.companion is not None and name == self.companion.name:
            return self.companion
        own: Sequence[str] = [self.head.name] + ([self.companion.name] if self.companion is not None else [])
        raise ValueError(f"this model has no head '{name}'; it has: {', '.join(own)}")
