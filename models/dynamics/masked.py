"""Stage 2 in the masked order: the published EAG (Ge et al. 2025; EAR, Shao et al. 2025; MAR, Li et al. 2024).

M draws, B batch, T bins, J tokens (one a patch of p bins), P = p * latents, D width, L latent channels,
R = B * samples rows, X tokens drawn in one step.

A transformer that sees both ways reads all tokens of a window; those that are hidden read as one learned vector, and
padding is never attended to. hidden_BJD[:, j] tells the distribution of token j given the known ones. Sampling starts
from what is known (nothing, a context, any bins) and draws the rest in a few steps, see unmasking.py.

A window longer than any in training is filled piece by piece, from left to right, in overlapping windows of the longest
trained length. A gap that crosses the end of such a piece is filled without its right side up to there.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from neurochorus.models.backbones import Transformer
from neurochorus.models.dynamics.base import Dynamics
from neurochorus.models.dynamics.patches import from_patches, to_patches, valid_patches
from neurochorus.models.dynamics.sequence import LatentSequence
from neurochorus.models.dynamics.unmasking import MaskedConfig, drawing_steps, training_mask, windows
from neurochorus.models.heads import Generators, Head, HeadsConfig, build_head

if TYPE_CHECKING:
    from neurochorus.models.dynamics.config import DynamicsConfig

__all__ = ["MaskedConfig", "MaskedDynamics"]


class MaskedDynamics(Dynamics):
    def __init__(
        self,
        config: "DynamicsConfig",
        head: str,
        heads: HeadsConfig,
        latents: int,
        sessions: int,
        subjects: int,
        covariates: Mapping[str, int] | None = None,
    ):
        width, masked = config.transformer.width, config.masked
        super().__init__(config, width, latents, sessions, subjects, covariates or {})
        channels = config.patch_bins * latents
        self.read = nn.Linear(channels, width)
        self.hidden_token = nn.Parameter(torch.randn(width))
        if masked.buffer_tokens:
            self.buffer_vectors = nn.Parameter(torch.randn(masked.buffer_tokens, width))
        self.transformer = Transformer(config.transformer, causal=False)
        self.head = build_head(head, heads, width, channels)
        if config.gaussian_companion and head != "gaussian":
            self.companion = build_head("gaussian", heads, width, channels)
        self.register_buffer("longest_window", torch.zeros((), dtype=torch.long))

    longest_window: Tensor
    "Tokens of the longest window seen in training (by the first rank, whose buffers are exported); 0 before."

    def forward(self, sequence: LatentSequence) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Training loss summed over valid bins, their number, and the parts of the loss (also sums, detached).

        The loss of a sample is the mean over its hidden tokens, and counts as often as it has valid bins. So each
        sample adds a term of its own to the sum: cutting a batch into micro-batches or ranks does not change it, and
        for samples of one length and `ratio_per: batch` it is EAR's mean over hidden tokens.
        Raises ValueError for windows shorter than a patch, or longer than the learned places.
        """
        latent_BTL, mask_BT, patch = sequence.latent_BTL, sequence.mask_BT, self.config.patch_bins
        if latent_BTL.shape[1] < patch:
            raise ValueError(f"windows of {latent_BTL.shape[1]} bins; patch_bins {patch} needs at least as many")
        valid_BJ = valid_patches(mask_BT, patch)
        if self.training:
            self.longest_window.clamp_min_(valid_BJ.shape[1])
        drawn_BJ = training_mask(self.config.masked, valid_BJ)
        condition_BJD = self.condition(sequence, latent_BTL.shape[1])
        hidden_BJD = self.hidden(
            to_patches(self._noisy(latent_BTL), patch), valid_BJ & ~drawn_BJ, valid_BJ, condition_BJD
        )
        target = to_patches(latent_BTL if sequence.targets_MBTL is None else sequence.targets_MBTL, patch)
        share_B1 = mask_BT.sum(dim=1, keepdim=True) / drawn_BJ.sum(dim=1, keepdim=True).clamp_min(1)
        weight_BJ = drawn_BJ * share_B1
        parts = {self.head.name: self.head(hidden_BJD, target, weight_BJ) * weight_BJ.sum()}
        if self.companion is not None:
            parts["companion"] = self.companion(hidden_BJD.detach(), target, weight_BJ) * weight_BJ.sum()
        loss = torch.stack(list(parts.values())).sum()
        return loss, mask_BT.sum(), {name: part.detach() for name, part in parts.items()}

    def hidden(self, token_BJP: Tensor, known_BJ: Tensor, valid_BJ: Tensor | None, condition_BJD: Tensor) -> Tensor:
        """Hidden states (B, J, D); values of tokens that are not known, and those that are not valid, have no effect.

        `valid_BJ` None: all are. `condition_BJD` may have one token for all.
        """
        known_BJ1 = known_BJ.unsqueeze(-1)
        x_BJD = torch.where(known_BJ1, self.read(token_BJP), self.hidden_token)
        masked = self.config.masked
        x_BJD = x_BJD + condition_BJD
        if masked.buffer_tokens:
            x_BJD = torch.cat((self.buffer_vectors.expand(len(x_BJD), -1, -1), x_BJD), dim=1)
            valid_BJ = None if valid_BJ is None else F.pad(valid_BJ, (masked.buffer_tokens, 0), value=True)
        return self.transformer(x_BJD, mask_BT=valid_BJ)[:, masked.buffer_tokens :]

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
        """See `Dynamics.simulate`. The oldest bins of a context that do not fill a patch are left out."""
        context = self.whole_patches(context)
        past = context.latent_BTL.shape[1]
        known_BT = F.pad(torch.ones_like(context.mask_BT), (0, horizon), value=False)
        whole = replace(
            context,
            latent_BTL=F.pad(context.latent_BTL, (0, 0, 0, horizon)),
            mask_BT=torch.ones_like(known_BT),
        )
        return self.fill(whole, known_BT, samples, generator, temperature, head, guidance)[:, :, past:]

    @torch.no_grad()
    def fill(
        self,
        sequence: LatentSequence,
        known_BT: Tensor,
        samples: int,
        generator: Generators,
        temperature: float = 1.0,
        head: str | None = None,
        guidance: float = 1.0,
    ) -> Tensor:
        """Latents (B, samples, T, L) as given where `known_BT`, or in padding, and drawn given those elsewhere.

        `generator`: one, or one for each (row, sample) in row-major order; then a sample depends on its own row only.
        `guidance` above 1 grows with the share of the window that is known, 1 + (guidance - 1) * share (EAR). A patch
        of which some bins only are known is drawn whole, and what is known of it put back. `config.masked` may be
        replaced to sample with other steps or another order.
        """
        drawing = _Drawing(self._chosen_head(head), generator, temperature, guidance)
        patch, (batch, bins) = self.config.patch_bins, known_BT.shape
        short = -bins % patch
        given_BTL = F.pad(sequence.latent_BTL, (0, 0, 0, short))
        known_BT = F.pad(known_BT & sequence.mask_BT, (0, short))
        wanted_BT = F.pad(sequence.mask_BT, (0, short)) & ~known_BT
        unknown_BJ = ~valid_patches(~wanted_BT, patch)  # tokens with any bin to be drawn
        token_RJP = to_patches(given_BTL, patch).repeat_interleave(samples, dim=0)
        known_RJ = valid_patches(known_BT, patch).repeat_interleave(samples, dim=0)
        unknown_RJ = unknown_BJ.repeat_interleave(samples, dim=0)
        for start, stop in self._windows(token_RJP.shape[1]):
            part, part_bins = sequence.since(start * patch), (stop - start) * patch
            conditions = [self.condition(part, part_bins)]
            if guidance != 1:
                conditions.append(self.condition(part, part_bins, unconditional=True))
            to_draw_RJ = unknown_RJ[:, start:stop] & ~known_RJ[:, start:stop]  # the window before has drawn some
            window = (token_RJP[:, start:stop], known_RJ[:, start:stop], to_draw_RJ)
            # at the very start the samples of a row are still the same, and go through the transformer once
            self._fill_window(*window, conditions, drawing, alike=1 if start else samples)
        filled_BSTL = from_patches(token_RJP, patch).unflatten(0, (batch, samples))
        return torch.where(wanted_BT[:, None, :, None], filled_BSTL, given_BTL.unsqueeze(1))[:, :, :bins]

    def _fill_window(
        self,
        token_RJP: Tensor,
        known_RJ: Tensor,
        unknown_RJ: Tensor,
        conditions_BJD: list[Tensor],
        drawing: "_Drawing",
        alike: int,
    ) -> None:
        """Draw the unknown tokens of a window in place, marking them as known.

        `conditions_BJD`: of the model, and with guidance an unconditional one. At the first step a row and the
        `alike` - 1 rows after it are the same.
        """
        step_RJ = drawing_steps(unknown_RJ, self.config.masked, drawing.generator)
        valid_RJ = known_RJ | unknown_RJ
        mask_RJ = None if bool(valid_RJ.all()) else valid_RJ
        samples = len(token_RJP) // len(conditions_BJD[0])
        conditions_RJD = [condition_BJD.repeat_interleave(samples, dim=0) for condition_BJD in conditions_BJD]
        for step in range(int(step_RJ.max()) + 1 if step_RJ.numel() else 0):
            each = slice(None, None, alike if step == 0 else 1)
            rows, places = (step_RJ == step).to(token_RJP.device).nonzero(as_tuple=True)
            seen = (token_RJP[each], known_RJ[each], None if mask_RJ is None else mask_RJ[each])
            own, *without = [
                self.hidden(*seen, condition_RJD[each])[rows // each.step, places] for condition_RJD in conditions_RJD
            ]
            known_RJ[rows, places] = True
            share_X1 = (known_RJ.sum(dim=1) / valid_RJ.sum(dim=1).clamp_min(1))[rows].unsqueeze(-1)
            token_RJP[rows, places] = drawing.tokens(own, without, share_X1, rows)

    def _windows(self, tokens: int) -> list[tuple[int, int]]:
        longest, masked = int(self.longest_window), self.config.masked
        if self.config.positions and tokens > longest > 0:
            patch = self.config.patch_bins
            raise ValueError(
                f"{tokens * patch} bins with their context, and the longest window in training had {longest * patch}: "
                "learned places end there (model.dynamics.positions); ask for a shorter horizon"
            )
        return windows(tokens, longest or tokens, masked.overlap)


@dataclass(frozen=True)
class _Drawing:
    """How tokens are drawn, the same for all windows of one call."""

    head: Head
    generator: Generators
    temperature: float
    guidance: float

    def tokens(self, own_XD: Tensor, without_XD: list[Tensor], share_X1: Tensor, rows_X: Tensor) -> Tensor:
        """A draw for each hidden state (X, P); `without_XD` those without condition, when there is guidance."""
        hidden_XD = own_XD
        if without_XD:
            scale_X1 = 1 + (self.guidance - 1) * (share_X1 if self.guidance > 1 else 1.0)
            hidden_XD = scale_X1 * own_XD + (1 - scale_X1) * without_XD[0]
        generator = self.generator
        if not isinstance(generator, torch.Generator):
            generator = [generator[row] for row in rows_X.tolist()]
        return self.head.sample(hidden_XD, 1, generator, self.temperature)[0]
