"""Stage 2, the dynamics: a causal transformer over whitened latents with a swappable head.

B batch, T tokens (one a bin), L latent channels, D width.

Token t is the latent of bin t - 1 (token 0: a learned start), so hidden_BTD[:, t] tells the distribution
of the latent of bin t. Session and subject are vectors added to every token, not tokens of their own: a
sliding attention window then never loses them. The head predicts the scaled change (z_t - z_{t-1}) / sd
(`increment`) or z_t itself (`level`); the first latent of a window is always predicted as a level.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from neurochorus.models.backbones.transformer import Transformer
from neurochorus.models.dynamics.config import DynamicsConfig
from neurochorus.models.dynamics.running_means import last_running_means, running_means
from neurochorus.models.dynamics.sequence import LatentSequence
from neurochorus.models.heads import Generators, HeadsConfig, build_head
from neurochorus.models.units import Table


class CausalDynamics(nn.Module):
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
        self.transformer = Transformer(config.transformer)
        self.head = build_head(head, heads, width, latents)
        companion = config.gaussian_companion and head != "gaussian"
        self.companion = build_head("gaussian", heads, width, latents) if companion else None
        self.register_buffer("increment_sd", torch.ones(latents))

    increment_sd: Tensor

    def forward(self, sequence: LatentSequence) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Training loss summed over valid tokens, their number, and the parts of the loss (also sums)."""
        latent_BTL, mask_BT = sequence.latent_BTL, sequence.mask_BT
        read_BTL = latent_BTL
        if self.training and self.config.history_noise:
            read_BTL = read_BTL + self.config.history_noise * torch.randn_like(read_BTL)
        if self.training and self.config.history_dropout:
            kept_BT1 = torch.rand(*read_BTL.shape[:2], 1, device=read_BTL.device) >= self.config.history_dropout
            read_BTL = read_BTL * kept_BT1
        hidden_BTD = self.hidden(replace(sequence, latent_BTL=read_BTL))
        target_BTL = self.scaled_target(latent_BTL)
        count = mask_BT.sum()
        parts = {self.head.name: self.head(hidden_BTD, target_BTL, mask_BT) * count}
        if self.companion is not None:
            parts["companion"] = self.companion(hidden_BTD.detach(), target_BTL, mask_BT) * count
        return torch.stack(list(parts.values())).sum(), count, {name: part.detach() for name, part in parts.items()}

    def hidden(self, sequence: LatentSequence) -> Tensor:
        """Hidden states (B, T, D): the one at bin t predicts the latent of bin t from those before it."""
        condition_BD = self.condition(sequence)
        if self.training and self.config.condition_dropout:
            kept_B1 = torch.rand(len(condition_BD), 1, device=condition_BD.device) >= self.config.condition_dropout
            condition_BD = condition_BD * kept_B1
        return self.transformer(self._tokens(sequence.latent_BTL[:, :-1]) + condition_BD.unsqueeze(1))

    def condition(self, sequence: LatentSequence) -> Tensor:
        return self.session_vectors(sequence.session_B) + self.subject_vectors(sequence.subject_B)

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
        context: LatentSequence,
        horizon: int,
        samples: int,
        generator: Generators,
        temperature: float = 1.0,
        head: str | None = None,
    ) -> Tensor:
        """Free-running continuation of whitened latents, (B, samples, horizon, L).

        The context may have no bins (then the first latent is drawn too). `generator`: one, or one for
        each (row, sample) in row-major order. `head` "gaussian" uses the companion instead of the head.
        The context goes through the transformer once; samples are expanded after it.
        """
        chosen, context_BTL = self._chosen_head(head), context.latent_BTL
        batch, context_bins = context_BTL.shape[:2]
        cache = self.transformer.new_cache(batch, context_bins + horizon, context_BTL.device)
        condition_BD = self.condition(context)
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
