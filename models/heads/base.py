"""What a head is: hidden state in, distribution of the next latent out.

B batch rows, T tokens, D width of the hidden state, L latent channels, n samples, M targets of a token.
The dynamics know only the two methods of `Head`. To a head a target is a vector: the latents of one bin, or of
all bins of a patch.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

Generators = torch.Generator | Sequence[torch.Generator]
"""One generator for all rows, or one for each row (then a row's samples do not depend on the others)."""


class Head(nn.Module):
    name: str

    def loss(self, hidden_BTD: Tensor, target: Tensor, mask_BT: Tensor) -> Tensor:
        """Mean loss over the valid tokens (mask true), a scalar in float32; zero when none is valid.

        `target` is (B, T, L), or (M, B, T, L) when an encoder drew several latents for each token: then the
        expected loss is the mean over the M.
        """
        raise NotImplementedError

    def sample(self, hidden_BD: Tensor, n: int, generator: Generators, temperature: float = 1.0) -> Tensor:
        """`n` draws of the next latent for each row, (n, B, L); `temperature` scales the noise."""
        raise NotImplementedError

    def forward(self, hidden_BTD: Tensor, target: Tensor, mask_BT: Tensor) -> Tensor:
        return self.loss(hidden_BTD, target, mask_BT)


def every_target(target: Tensor) -> Tensor:
    """The targets as float32 (M, B, T, L), with M = 1 when there is one a token."""
    return target.float() if target.ndim == 4 else target.float().unsqueeze(0)


def drawn_targets(target: Tensor, draws: int) -> Tensor:
    """A target for each of `draws` losses of a token, float32 (draws, B, T, L).

    Of several targets each draw takes one at random, so that the mean loss over the targets is met in
    expectation and costs no more than one target does.
    """
    target_MBTL = every_target(target)
    many, *tokens, latents = target_MBTL.shape
    if many == 1:
        return target_MBTL.expand(draws, *tokens, latents)
    chosen = torch.randint(many, (draws, *tokens, 1), device=target.device)
    return target_MBTL.gather(0, chosen.expand(-1, -1, -1, latents))


def masked_mean(loss_BT: Tensor, mask_BT: Tensor) -> Tensor:
    """Mean over the tokens whose mask is true; zero when there are none."""
    return (loss_BT.float() * mask_BT).sum() / mask_BT.sum().clamp_min(1)


def normal(n: int, rows: int, width: int, generator: Generators, like: Tensor) -> Tensor:
    """Standard normal noise (n, rows, width) on `like`'s device, drawn on the CPU so that devices agree."""
    return _draw(torch.randn, n, rows, width, generator).to(like.device)


def uniform(n: int, rows: int, width: int, generator: Generators, like: Tensor) -> Tensor:
    """Uniform noise on [0, 1), (n, rows, width), drawn like `normal`."""
    return _draw(torch.rand, n, rows, width, generator).to(like.device)


def waves(position: Tensor, count: int) -> Tensor:
    """Sines and cosines of a position in [0, 1], (..., 1) -> (..., count), at half periods 1, 1/2, 1/3, ..."""
    angle = position * (math.pi * torch.arange(1, count // 2 + 1, device=position.device))
    return torch.cat((angle.sin(), angle.cos()), dim=-1)


def _draw(draw, n: int, rows: int, width: int, generator: Generators) -> Tensor:
    if isinstance(generator, torch.Generator):
        return draw((n, rows, width), generator=generator)
    if len(generator) != rows:
        raise ValueError(f"{len(generator)} generators for {rows} rows: give one, or one for each row")
    return torch.stack([draw((n, width), generator=one) for one in generator], dim=1)


class AdaptiveBlock(nn.Module):
    """Residual MLP block steered by a condition: shift, scale and gate of a layer norm (adaLN-zero).

    The gate starts at zero, so a new head is the identity (DiT, Peebles & Xie 2023; EAR, Shao et al. 2025).
    """

    def __init__(self, width: int, condition_width: int):
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.steer = nn.Linear(condition_width, 3 * width)
        self.expand = nn.Linear(width, width)
        self.contract = nn.Linear(width, width)
        nn.init.zeros_(self.steer.weight)
        nn.init.zeros_(self.steer.bias)

    def forward(self, x: Tensor, condition: Tensor, shift_factor: float = 1.0) -> Tensor:
        shift, scale, gate = self.steer(nn.functional.silu(condition)).chunk(3, dim=-1)
        steered = self.norm(x) * (1 + scale) + shift_factor * shift
        return x + gate * self.contract(nn.functional.silu(self.expand(steered)))


class AdaptiveOutput(nn.Module):
    """Last layer: layer norm shifted and scaled by the condition, then a linear map that starts at zero.

    The linear map is float32 under autocast too: in bfloat16 samples would lie on a grid of 0.4 % of their size.
    """

    def __init__(self, width: int, condition_width: int, outputs: int):
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.steer = nn.Linear(condition_width, 2 * width)
        self.output = nn.Linear(width, outputs)
        for layer in (self.steer, self.output):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        shift, scale = self.steer(nn.functional.silu(condition)).chunk(2, dim=-1)
        features = self.norm(x) * (1 + scale) + shift
        with torch.autocast(features.device.type, enabled=False):
            return self.output(features.float())
