"""Stage 2 by latent diffusion over whole windows: LDNS (Kapoor et al. 2024), the baseline that others are held against.

B batch, T bins, J tokens (one a patch of p bins), P = p * latents, D width, L latent channels, R = B * samples rows.

The denoiser reads all tokens of a noisy window both ways and estimates its noise; see denoising.py for the rest. It
has no head and can only make whole windows from nothing. Differences from LDNS: a transformer in the place of S4 blocks
(the backbone of the other orders), noise levels added to the tokens and steering the output instead of every block, the
best linear estimate of white latents beside the network (below), no average over past weights (EMA), and no
clipping of latents at 5 sd.

The network's output n is not the noise itself: e = sqrt(1 - a_t) x_t + sqrt(a_t) n, so that n = 0 is the best
estimate for independent standard normal latents, and stays well scaled at all levels (Salimans & Ho 2022).
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from neurochorus.models.backbones import Transformer
from neurochorus.models.dynamics.base import Dynamics
from neurochorus.models.dynamics.denoising import DiffusionConfig, denoise, kept_variance
from neurochorus.models.dynamics.patches import from_patches, to_patches, valid_patches
from neurochorus.models.dynamics.sequence import LatentSequence
from neurochorus.models.heads import Generators, HeadsConfig
from neurochorus.models.heads.base import AdaptiveOutput, normal, waves

if TYPE_CHECKING:
    from neurochorus.models.dynamics.config import DynamicsConfig

__all__ = ["DiffusionConfig", "DiffusionDynamics"]

LEVEL_WAVES = 64
ROWS_AT_ONCE = 32
"Rows that go through the sampler together: few enough that their tokens stay in a processor's cache."


class DiffusionDynamics(Dynamics):
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
        """`head` and `heads` are not used: there is none."""
        del head, heads
        width = config.transformer.width
        super().__init__(config, width, latents, sessions, subjects, covariates or {})
        channels = config.patch_bins * latents
        self.read = nn.Linear(channels, width)
        self.level = nn.Sequential(nn.Linear(LEVEL_WAVES, width), nn.SiLU(), nn.Linear(width, width))
        self.transformer = Transformer(config.transformer, causal=False)
        self.output = AdaptiveOutput(width, width, channels)
        self.register_buffer("window_tokens", torch.zeros((), dtype=torch.long))

    window_tokens: Tensor
    "Tokens of the longest window seen in training; 0 before."

    def forward(self, sequence: LatentSequence) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Squared error of the noise estimate, mean over channels, at one random noise level a sample.

        Summed over valid bins, with their number, and again as the only part of the loss.
        """
        patch, valid_BJ = self.config.patch_bins, valid_patches(sequence.mask_BT, self.config.patch_bins)
        if self.training:
            self.window_tokens.clamp_min_(valid_BJ.shape[1])
        clean = sequence.latent_BTL if sequence.targets_MBTL is None else sequence.targets_MBTL[0]
        token_BJP = to_patches(clean, patch).float()
        level_B = torch.randint(self.config.diffusion.train_steps, (len(token_BJP),), device=token_BJP.device)
        noise_BJP = torch.randn_like(token_BJP)
        kept_B11 = self._kept_variance(level_B)
        noisy_BJP = kept_B11.sqrt() * token_BJP + (1 - kept_B11).sqrt() * noise_BJP
        condition = self.condition(sequence, token_BJP.shape[1] * patch)
        estimate_BJP = self.noise_estimate(noisy_BJP, level_B, condition, valid_BJ)
        squared_BJ = (estimate_BJP - noise_BJP).square().mean(dim=-1)
        loss = (squared_BJ * valid_BJ).sum() * patch
        return loss, sequence.mask_BT.sum(), {"diffusion": loss.detach()}

    def noise_estimate(
        self, noisy_BJP: Tensor, level_B: Tensor, condition: Tensor, valid_BJ: Tensor | None = None
    ) -> Tensor:
        """Expected noise (B, J, P) in float32 of windows at these noise levels; padding (not valid) has no effect."""
        level_B1D = self.level(
            waves((level_B / self.config.diffusion.train_steps).unsqueeze(-1), LEVEL_WAVES)
        ).unsqueeze(1)
        token_BJD = self.read(noisy_BJP) + level_B1D + condition
        hidden_BJD = self.transformer(token_BJD, mask_BT=valid_BJ)
        network_BJP = self.output(hidden_BJD, level_B1D).float()
        kept_B11 = self._kept_variance(level_B)
        return (1 - kept_B11).sqrt() * noisy_BJP + kept_B11.sqrt() * network_BJP

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
        """See `Dynamics.simulate`: windows of the trained length, of which the first `horizon` bins are given.

        `config.diffusion` may be replaced to sample with another sampler or fewer steps. Raises ValueError for a
        context with bins, a horizon longer than the windows of the training, and a head.
        """
        self._check(context, horizon, head)
        patch = self.config.patch_bins
        tokens = int(self.window_tokens) or -(-horizon // patch)
        own = self.condition(context, tokens * patch)
        streams = [own] if guidance == 1 else [own, self.condition(context, tokens * patch, unconditional=True)]
        rows = len(own) * samples
        parts = []
        for start in range(0, rows, ROWS_AT_ONCE):
            chunk = slice(start, min(start + ROWS_AT_ONCE, rows))
            conditions = [stream.repeat_interleave(samples, dim=0)[chunk] for stream in streams]
            one = generator if isinstance(generator, torch.Generator) else generator[chunk]
            parts.append(self._sample(conditions, tokens, one, temperature, guidance))
        latent_RTL = from_patches(torch.cat(parts), patch)[:, :horizon]
        return latent_RTL.unflatten(0, (len(own), samples))

    def _sample(
        self,
        conditions: Sequence[Tensor],
        tokens: int,
        generator: Generators,
        temperature: float,
        guidance: float,
    ) -> Tensor:
        rows, channels = len(conditions[0]), self.config.patch_bins * self.latents

        def draw() -> Tensor:
            noise_R1 = normal(1, rows, tokens * channels, generator, self.increment_sd)[0]
            return temperature * noise_R1.unflatten(-1, (tokens, channels))

        def estimate(x_RJP: Tensor, level: int) -> Tensor:
            level_R = torch.full((rows,), level, device=x_RJP.device)
            own, *without = [self.noise_estimate(x_RJP, level_R, condition) for condition in conditions]
            return guidance * own + (1 - guidance) * without[0] if without else own

        return denoise(draw(), estimate, self.config.diffusion, draw)

    def _kept_variance(self, level_B: Tensor) -> Tensor:
        kept = kept_variance(self.config.diffusion).float().to(level_B.device)
        return kept[level_B][:, None, None]

    def _check(self, context: LatentSequence, horizon: int, head: str | None) -> None:
        if context.latent_BTL.shape[1]:
            raise ValueError(
                f"a context of {context.latent_BTL.shape[1]} bins: dynamics in order diffusion make whole windows from "
                "nothing; give no context, or train with model.dynamics.order causal or masked"
            )
        longest = int(self.window_tokens) * self.config.patch_bins
        if longest and horizon > longest:
            raise ValueError(
                f"a horizon of {horizon} bins: dynamics in order diffusion make windows of the {longest} bins that "
                "they were trained on; ask for a shorter one, or train with longer windows"
            )
        if head is not None:
            raise ValueError(f"no head '{head}': dynamics in order diffusion have none")
