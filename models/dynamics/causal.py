"""Stage 2, the dynamics: a causal backbone over whitened latents with a swappable head.

B batch, T bins, J tokens (patches of p bins; p = 1 unless set), L latent channels, D width, M target draws,
R = B x samples rows of a rollout, A = R x streams (two with guidance, one without).

Token j is patch j - 1 (token 0: a learned start), so hidden_BJD[:, j] tells the distribution of patch j. Session,
subject and covariates are vectors added to the tokens, not tokens of their own: a sliding attention window then never
loses them. The head predicts the scaled changes (z_t - z_{t-1}) / sd (`increment`) or z_t itself (`level`); the first
latent of a window is always predicted as a level.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from neurochorus.models.backbones import GRU, Backbone, Cache, Transformer
from neurochorus.models.dynamics.base import Dynamics
from neurochorus.models.dynamics.config import DynamicsConfig
from neurochorus.models.dynamics.patches import (
    bins_of_patches,
    from_patches,
    latents_of_increments,
    read_of_last_patch,
    read_of_patches,
    scaled_increments,
    to_patches,
)
from neurochorus.models.dynamics.sequence import LatentSequence
from neurochorus.models.heads import Generators, HeadsConfig, build_head


@dataclass
class Unrolling:
    """Where a free-running continuation stands: what the backbone remembers, and the last latents of each row."""

    cache: Cache
    conditions: Iterator[Tensor]
    "Of the tokens to come, (A / samples, 1, D) each."
    samples: int
    recent_RTL: Tensor
    guidance: float


class CausalDynamics(Dynamics):
    def __init__(
        self,
        config: DynamicsConfig,
        head: str,
        heads: HeadsConfig,
        latents: int,
        sessions: int,
        subjects: int,
        covariates: Mapping[str, int] | None = None,
    ):
        width = config.transformer.width if config.backbone == "transformer" else config.gru.width
        super().__init__(config, width, latents, sessions, subjects, covariates or {})
        patch = config.patch_bins
        self.read = nn.Linear(latents * (len(config.history_scales) + patch - 1), width)
        self.start = nn.Parameter(torch.randn(width))  # not zero: the gradient of RMSNorm explodes there
        backbone = Transformer(config.transformer) if config.backbone == "transformer" else GRU(config.gru)
        self.add_module(config.backbone, backbone)  # under its own name, as in the weights of an export
        self.head = build_head(head, heads, width, latents * patch)
        if config.gaussian_companion and head != "gaussian":
            self.companion = build_head("gaussian", heads, width, latents * patch)

    @property
    def backbone(self) -> Backbone:
        return self.get_submodule(self.config.backbone)  # type: ignore[return-value]

    def forward(self, sequence: LatentSequence) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Training loss summed over valid bins, their number, and the parts of the loss (also sums, detached).

        A patch is scored when all its bins are valid. A sample counts as often as it has valid bins, those outside its
        whole patches included, so the sum over a batch does not depend on how it is cut into micro-batches.
        Raises ValueError for windows shorter than a patch.
        """
        config = self.config
        if sequence.latent_BTL.shape[1] < config.patch_bins:
            raise ValueError(
                f"windows of {sequence.latent_BTL.shape[1]} bins; patch_bins {config.patch_bins} needs at least as many"
            )
        noisy_BTL = self._noisy(sequence.latent_BTL)
        hidden_BJD = self.hidden(replace(sequence, latent_BTL=self._with_gaps(noisy_BTL)))
        base_BTL = noisy_BTL if config.noise_target == "corrected" else sequence.latent_BTL
        wanted = sequence.latent_BTL if sequence.targets_MBTL is None else sequence.targets_MBTL
        target = to_patches(self.scaled_target(wanted, base_BTL), config.patch_bins)
        weight_BJ = bins_of_patches(sequence.mask_BT, config.patch_bins)
        parts = {self.head.name: self.head(hidden_BJD, target, weight_BJ) * weight_BJ.sum()}
        if self.companion is not None:
            parts["companion"] = self.companion(hidden_BJD.detach(), target, weight_BJ) * weight_BJ.sum()
        loss = torch.stack(list(parts.values())).sum()
        return loss, sequence.mask_BT.sum(), {name: part.detach() for name, part in parts.items()}

    def hidden(self, sequence: LatentSequence) -> Tensor:
        """Hidden states (B, J, D): the one of patch j predicts its latents from those before it."""
        bins = sequence.latent_BTL.shape[1] // self.config.patch_bins * self.config.patch_bins
        past_BTL = sequence.latent_BTL[:, : bins - self.config.patch_bins]
        return self.backbone(self._tokens(past_BTL) + self.condition(sequence, bins))

    def scaled_target(self, level_BTL: Tensor, base_BTL: Tensor | None = None) -> Tensor:
        """What is predicted of each bin, (..., T, L): levels or scaled increments.

        The increment of a patch's first bin is against the bin before in `base_BTL`; None: in `level_BTL`.
        """
        if self.config.target == "level":
            return level_BTL
        base_BTL = level_BTL if base_BTL is None else base_BTL
        return scaled_increments(level_BTL, base_BTL, self.increment_sd, self.config.patch_bins)

    def next_latents(self, previous_BL: Tensor | None, drawn_BP: Tensor) -> Tensor:
        """The latents (B, p, L) that a draw of the head stands for; `previous_BL` is None at the start of a window."""
        drawn_BTL = from_patches(drawn_BP.unsqueeze(1), self.config.patch_bins)
        if self.config.target == "level":
            return drawn_BTL
        return latents_of_increments(drawn_BTL, previous_BL, self.increment_sd)

    def _tokens(self, past_BTL: Tensor) -> Tensor:
        """Tokens 0 ... J of patches 0 ... J-1: the start token, then one token a patch."""
        # without a patch too: a rank whose windows are that short must touch the same parameters as the others
        read_BJ = read_of_patches(past_BTL, self.config.history_scales, self.config.patch_bins)
        return torch.cat((self.start.expand(past_BTL.shape[0], 1, -1), self.read(read_BJ)), dim=1)

    def _with_gaps(self, latent_BTL: Tensor) -> Tensor:
        if not (self.training and self.config.history_dropout):
            return latent_BTL
        kept_BT1 = torch.rand(*latent_BTL.shape[:2], 1, device=latent_BTL.device) >= self.config.history_dropout
        return latent_BTL * kept_BT1

    @torch.no_grad()
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
        """Free-running continuation of whitened latents, (B, samples, horizon, L); see `Dynamics.simulate`.

        The context goes through the backbone once; samples are expanded after it. With patches the oldest bins of a
        context that is not a multiple of them are dropped, and what is drawn beyond the horizon too.
        """
        chosen, batch = self._chosen_head(head), len(context.latent_BTL)
        hidden_RD, unrolling = self.begin(context, horizon, samples, guidance)
        made: list[Tensor] = []
        for start in range(0, horizon, self.config.patch_bins):
            if start:
                hidden_RD = self.advance(unrolling, made[-1])
            recent_RTL = unrolling.recent_RTL
            drawn_RP = chosen.sample(hidden_RD, 1, generator, temperature)[0]
            made.append(self.next_latents(recent_RTL[:, -1] if recent_RTL.shape[1] else None, drawn_RP))
        return torch.cat(made, dim=1)[:, :horizon].unflatten(0, (batch, samples))

    def begin(
        self, context: LatentSequence, horizon: int, samples: int, guidance: float = 1.0
    ) -> tuple[Tensor, Unrolling]:
        """Read the context; returns the hidden state (R, D) of its next patch, and where to go on from.

        Gradients flow when they are enabled.
        """
        patch = self.config.patch_bins
        context = self.whole_patches(context)
        latent_BTL = context.latent_BTL
        (batch, bins), to_come = latent_BTL.shape[:2], -(-horizon // patch)
        tokens = bins // patch + 1
        condition = self.sampling_condition(context, bins + to_come * patch, guidance)
        condition = condition.expand(-1, tokens - 1 + to_come, -1)
        cache = self.backbone.new_cache(len(condition), condition.shape[1], latent_BTL.device)
        token = self._tokens(latent_BTL).repeat(len(condition) // batch, 1, 1) + condition[:, :tokens]
        hidden_BD = self.guided(self.backbone(token, cache)[:, -1], guidance)
        recent_BTL = latent_BTL[:, -max(patch, *self.config.history_scales) :]
        unrolling = Unrolling(
            cache.repeat(samples),
            iter(condition[:, tokens:].split(1, dim=1)),
            samples,
            recent_BTL.repeat_interleave(samples, dim=0),
            guidance,
        )
        return hidden_BD.repeat_interleave(samples, dim=0), unrolling

    def advance(self, unrolling: Unrolling, latent_RTL: Tensor) -> Tensor:
        """Add the latents (R, p, L) of a patch; returns the hidden state (R, D) of the one after it."""
        config = self.config
        recent_RTL = torch.cat((unrolling.recent_RTL, latent_RTL), dim=1)
        unrolling.recent_RTL = recent_RTL[:, -max(config.patch_bins, *config.history_scales) :]
        read_R1 = read_of_last_patch(unrolling.recent_RTL, config.history_scales, config.patch_bins).unsqueeze(1)
        condition_A1D = next(unrolling.conditions).repeat_interleave(unrolling.samples, dim=0)
        token_A1D = self.read(read_R1).repeat(len(condition_A1D) // len(read_R1), 1, 1) + condition_A1D
        return self.guided(self.backbone(token_A1D, unrolling.cache)[:, -1], unrolling.guidance)
