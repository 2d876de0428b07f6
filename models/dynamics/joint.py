"""The joint phase: a score of whole stretches of a rollout, to fine-tune causal dynamics after stage 2.

Scores of single tokens cannot see how the errors of successive tokens hang together, nor what a model makes of its own
samples. Here a rollout of `bins` bins is unrolled with gradients from a random place of each window, S samples of it
side by side, and the whole stretch is scored as one vector with the fair energy score (strictly proper for its joint
distribution). Bin k of the stretch enters as (z_{t+k} - z_t) / (sd sqrt(k)), sd the one-bin increments' own, so that no
lead outweighs the others in a random walk.

B batch, T bins, S samples, R = B S rows, H bins of the stretch, L latent channels.
"""

from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from neurochorus.data_shards.settings import at_least, settings
from neurochorus.models.dynamics.sequence import LatentSequence
from neurochorus.models.heads.scoring_rules import energy_score_loss

if TYPE_CHECKING:
    from neurochorus.models.dynamics.causal import CausalDynamics


@settings
class JointConfig:
    bins: int = 8
    """Length of the unrolled stretch; rounded up to whole patches."""
    samples: int = 4
    """Rollouts of each stretch in the score."""
    token_weight: float = 0.5
    """Weight of stage 2's own loss beside the joint one, so that single steps stay as good."""

    def problems(self) -> list[str]:
        return at_least(self, 1, "bins") + at_least(self, 2, "samples") + at_least(self, 0, "token_weight")


class JointPhase(nn.Module):
    """What the phase trains: the dynamics, with this loss in place of their own."""

    def __init__(self, dynamics: "CausalDynamics"):
        super().__init__()
        self.dynamics = dynamics
        self.config = dynamics.config.joint

    def forward(self, sequence: LatentSequence) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Training loss summed over valid bins, their number, and the parts of the loss (also sums, detached)."""
        joint = stretch_score(self.dynamics, sequence, self.draw_start(sequence))
        own, count, parts = self.dynamics(sequence)
        return joint + self.config.token_weight * own, count, {"joint": joint.detach(), **parts}

    def draw_start(self, sequence: LatentSequence) -> int:
        """A place at the border of two patches with a stretch after it, the same for the whole batch.

        Raises ValueError when the windows have no room for a patch and a stretch.
        """
        patch = self.dynamics.config.patch_bins
        patches = (sequence.latent_BTL.shape[1] - stretch_bins(self.dynamics)) // patch
        if patches < 1:
            raise ValueError(
                f"windows of {sequence.latent_BTL.shape[1]} bins; the joint phase needs {patch} to start from and "
                f"{stretch_bins(self.dynamics)} to score: make model.dynamics.joint.bins smaller, or windows longer"
            )
        return patch * int(torch.randint(1, patches + 1, ()))


def stretch_bins(dynamics: "CausalDynamics") -> int:
    """Bins of a stretch: `joint.bins` rounded up to whole patches."""
    patch = dynamics.config.patch_bins
    return -(-dynamics.config.joint.bins // patch) * patch


def stretch_score(dynamics: "CausalDynamics", sequence: LatentSequence, start: int) -> Tensor:
    """Energy score of the stretch from bin `start` on, as a loss of the valid bins of the batch, with gradients.

    Each window counts as often as it has valid bins, if its whole stretch is valid, so the sum over a batch does not
    depend on how it is cut into micro-batches.
    """
    horizon, samples = stretch_bins(dynamics), dynamics.config.joint.samples
    known_BTL = sequence.latent_BTL if sequence.targets_MBTL is None else sequence.targets_MBTL[0]
    context = replace(sequence, latent_BTL=sequence.latent_BTL[:, :start])
    made_RHL = unroll(dynamics, context, horizon, samples)
    with torch.autocast(made_RHL.device.type, enabled=False):
        lead_H1 = torch.arange(1, horizon + 1, device=made_RHL.device).unsqueeze(-1)
        scale_HL = dynamics.increment_sd * lead_H1.sqrt()
        made_SBHL = made_RHL.float().unflatten(0, (-1, samples)).transpose(0, 1)
        wanted_BHL = known_BTL[:, start : start + horizon].float()
        score_B = energy_score_loss((made_SBHL / scale_HL).flatten(2), (wanted_BHL / scale_HL).flatten(1))
        whole_B = sequence.mask_BT[:, start : start + horizon].all(dim=1)
        # the norm of a vector grows with the root of its length: per channel and bin it stays of order one
        return (score_B * whole_B * sequence.mask_BT.sum(dim=1)).sum() / (horizon * dynamics.latents) ** 0.5


def unroll(dynamics: "CausalDynamics", context: LatentSequence, horizon: int, samples: int) -> Tensor:
    """A rollout through which gradients flow, (R, H, L), noise from torch's own generator; `horizon` whole patches."""
    hidden_RD, unrolling = dynamics.begin(context, horizon, samples)
    made: list[Tensor] = []
    for start in range(0, horizon, dynamics.config.patch_bins):
        if start:
            hidden_RD = dynamics.advance(unrolling, made[-1])
        drawn_RP = dynamics.head.sample(hidden_RD, 1, torch.default_generator)[0]
        made.append(dynamics.next_latents(unrolling.recent_RTL[:, -1], drawn_RP))
    return torch.cat(made, dim=1)
