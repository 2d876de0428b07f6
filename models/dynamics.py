"""Stage 2, the dynamics: a causal transformer over whitened latents with a swappable head.

B batch, T tokens (one a bin), L latent channels, D width.

Token t is the latent of bin t - 1 (token 0: a learned start), so hidden_BTD[:, t] tells the distribution
of the latent of bin t. Session and subject are vectors added to every token, not tokens of their own: a
sliding attention window then never loses them. The head predicts the scaled change (z_t - z_{t-1}) / sd
(`increment`) or z_t itself (`level`); the first latent of a window is always predicted as a level.
"""

from collections.abc import Sequence
from dataclasses import field
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from neurochorus.data_shards.settings import at_least, settings
from neurochorus.models.heads import Generators, HeadsConfig, build_head
from neurochorus.models.transformer import CausalTransformer, TransformerConfig
from neurochorus.models.units import Table


@settings
class DynamicsConfig:
    transformer: TransformerConfig = field(default_factory=lambda: TransformerConfig(blocks=4))
    target: Literal["increment", "level"] = "increment"
    history_noise: float = 0.1
    """Noise added to the latents that the transformer reads in training, in whitened sd (exposure bias)."""
    history_dropout: float = 0.0
    """Share of past latents replaced by zero in training."""
    history_scales: list[int] = field(default_factory=lambda: [1, 5, 20])
    """Causal running means of the latents over these many bins are read beside each other."""
    condition_dropout: float = 0.1
    """Share of samples that do not see their session and subject in training."""
    gaussian_companion: bool = True
    """Also fit a Gaussian head on the same hidden states (without changing them), as the row to compare with."""

    def problems(self) -> list[str]:
        found = [] if 1 in self.history_scales else ["history_scales: must contain 1, the last latent itself"]
        if any(scale < 1 for scale in self.history_scales):
            found.append(f"history_scales: expected whole numbers of bins from 1 on, found {self.history_scales}")
        found += at_least(self, 0, "history_noise")
        return found + [
            f"{name}: expected a number in [0, 1), found {getattr(self, name)}"
            for name in ("history_dropout", "condition_dropout")
            if not 0 <= getattr(self, name) < 1
        ]


class Dynamics(nn.Module):
    def __init__(
        self, config: DynamicsConfig, head: str, heads: HeadsConfig, latents: int, sessions: int, subjects: int
    ):
        super().__init__()
        width = config.transformer.width
        self.config, self.latents = config, latents
        self.read = nn.Linear(latents * len(config.history_scales), width)
        self.start = nn.Parameter(torch.randn(width))  # not zero: the gradient of RMSNorm explodes there
        self.session_vectors = Table(1 + sessions, width)
        self.subject_vectors = Table(1 + subjects, width)
        self.transformer = CausalTransformer(config.transformer)
        self.head = build_head(head, heads, width, latents)
        companion = config.gaussian_companion and head != "gaussian"
        self.companion = build_head("gaussian", heads, width, latents) if companion else None
        self.register_buffer("increment_sd", torch.ones(latents))

    increment_sd: Tensor

    def forward(
        self, latent_BTL: Tensor, mask_BT: Tensor, session_B: Tensor, subject_B: Tensor
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Training loss summed over valid tokens, their number, and the parts of the loss (also sums)."""
        read_BTL = latent_BTL
        if self.training and self.config.history_noise:
            read_BTL = read_BTL + self.config.history_noise * torch.randn_like(read_BTL)
        if self.training and self.config.history_dropout:
            kept_BT1 = torch.rand(*read_BTL.shape[:2], 1, device=read_BTL.device) >= self.config.history_dropout
            read_BTL = read_BTL * kept_BT1
        condition_BD = self.condition(session_B, subject_B)
        if self.training and self.config.condition_dropout:
            kept_B1 = torch.rand(len(session_B), 1, device=condition_BD.device) >= self.config.condition_dropout
            condition_BD = condition_BD * kept_B1
        hidden_BTD = self.transformer(self._tokens(read_BTL[:, :-1]) + condition_BD.unsqueeze(1))
        target_BTL = self.scaled_target(latent_BTL)
        count = mask_BT.sum()
        parts = {self.head.name: self.head(hidden_BTD, target_BTL, mask_BT) * count}
        if self.companion is not None:
            parts["companion"] = self.companion(hidden_BTD.detach(), target_BTL, mask_BT) * count
        return torch.stack(list(parts.values())).sum(), count, {name: part.detach() for name, part in parts.items()}

    def condition(self, session_B: Tensor, subject_B: Tensor) -> Tensor:
        return self.session_vectors(session_B) + self.subject_vectors(subject_B)

    def scaled_target(self, latent_BTL: Tensor) -> Tensor:
        """What the head predicts at each token: the first level, then levels or scaled increments."""
        if self.config.target == "level":
            return latent_BTL
        steps_BTL = (latent_BTL[:, 1:] - latent_BTL[:, :-1]) / self.increment_sd
        return torch.cat((latent_BTL[:, :1], steps_BTL), dim=1)

    def next_latent(self, previous_BL: Tensor | None, drawn_BL: Tensor) -> Tensor:
        """The latent that a draw of the head stands for; `previous_BL` is None at the start of a window."""
        if previous_BL is None or self.config.target == "level":
            return drawn_BL
        return previous_BL + drawn_BL * self.increment_sd

    def _tokens(self, past_BTL: Tensor) -> Tensor:
        """Tokens 0 ... T of latents 0 ... T-1: the start token, then one token a latent."""
        start_B1D = self.start.expand(past_BTL.shape[0], 1, -1)
        if past_BTL.shape[1] == 0:
            return start_B1D
        return torch.cat((start_B1D, self.read(running_means(past_BTL, self.config.history_scales))), dim=1)

    def append(self, sessions: int, subjects: int) -> None:
        """Add vectors for new sessions and subjects, each starting at the mean of the known ones."""
        with torch.no_grad():
            for table, count in ((self.session_vectors, sessions), (self.subject_vectors, subjects)):
                table.append(table.weight[1:].mean(dim=0).expand(count, -1))

    @torch.no_grad()
    def simulate(
        self,
        context_BTL: Tensor,
        session_B: Tensor,
        subject_B: Tensor,
        horizon: int,
        samples: int,
        generator: Generators,
        temperature: float = 1.0,
        head: str | None = None,
    ) -> Tensor:
        """Free-running continuation of whitened latents, (B, samples, horizon, L).

        context_BTL may have no bins (then the first latent is drawn too). `generator`: one, or one for
        each (row, sample) in row-major order. `head` "gaussian" uses the companion instead of the head.
        The context goes through the transformer once; samples are expanded after it.
        """
        chosen = self._chosen_head(head)
        batch, context_bins = context_BTL.shape[:2]
        cache = self.transformer.new_cache(batch, context_bins + horizon, context_BTL.device)
        condition_BD = self.condition(session_B, subject_B)
        hidden_BD = self.transformer(self._tokens(context_BTL) + condition_BD.unsqueeze(1), cache)[:, -1]
        hidden_RD = hidden_BD.repeat_interleave(samples, dim=0)  # R = B * samples rows
        cache, condition_RD = cache.repeat(samples), condition_BD.repeat_interleave(samples, dim=0)
        longest = max(self.config.history_scales)
        recent_RTL = context_BTL[:, -longest:].repeat_interleave(samples, dim=0)
        made: list[Tensor] = []
        for step in range(horizon):
            drawn_RL = chosen.sample(hidden_RD, 1, generator, temperature)[0]
            latent_RL = self.next_latent(recent_RTL[:, -1] if recent_RTL.shape[1] else None, drawn_RL)
            made.append(latent_RL)
            if step + 1 == horizon:
                break
            recent_RTL = torch.cat((recent_RTL, latent_RL.unsqueeze(1)), dim=1)[:, -longest:]
            means_R1 = last_running_means(recent_RTL, self.config.history_scales).unsqueeze(1)
            hidden_RD = self.transformer(self.read(means_R1) + condition_RD.unsqueeze(1), cache)[:, -1]
        return torch.stack(made, dim=1).unflatten(0, (batch, samples))

    def _chosen_head(self, name: str | None):
        if name is None or name == self.head.name:
            return self.head
        if self.companion is not None and name == self.companion.name:
            return self.companion
        own: Sequence[str] = [self.head.name] + ([self.companion.name] if self.companion is not None else [])
        raise ValueError(f"this model has no head '{name}'; it has: {', '.join(own)}")


def running_means(latent_BTL: Tensor, scales: Sequence[int]) -> Tensor:
    """Means over the last k bins (fewer at the start of a window) for each scale k, (B, T, L * scales)."""
    bins = latent_BTL.shape[1]
    sums_BTL = F.pad(latent_BTL, (0, 0, 1, 0)).cumsum(dim=1)
    last = torch.arange(1, bins + 1, device=latent_BTL.device)
    means = [latent_BTL if k == 1 else _mean_over(sums_BTL, last, k) for k in scales]
    return torch.cat(means, dim=-1)


def _mean_over(sums_BTL: Tensor, last: Tensor, bins: int) -> Tensor:
    first = (last - bins).clamp_min(0)
    return (sums_BTL[:, last] - sums_BTL[:, first]) / (last - first)[:, None]


def last_running_means(recent_BTL: Tensor, scales: Sequence[int]) -> Tensor:
    """`running_means` at the last bin only, (B, L * scales); `recent_BTL` holds at least the longest scale."""
    return torch.cat([recent_BTL[:, -k:].mean(dim=1) for k in scales], dim=-1)
