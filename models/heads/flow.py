"""AFM: autoregressive flow matching with a full-rank, preconditioned velocity (Rogalla et al. 2026).

Path x_t = (1 - t) x_0 + t x_1 from x_0 ~ N(0, I) to the next latent x_1; the velocity regresses x_1 - x_0:

    v(x, t, h) = a(t) x + F(x, t, h)

a(t) x is the exact velocity to N(0, s^2 I) (gaussian_path.py), so no direction of the noise keeps its unit variance
because a narrow network cannot see it (the published velocity sees 16 of them, and leaves the others as wide as they
started: Rogalla et al. 2026), and F has only the rest to learn. At the optimum the loss of an independent Gaussian of
sd s is s pi/2 a channel.

`source: hidden` starts from x_0 ~ N(mean(h), sd(h)^2) instead: the flow runs in (x - mean) / sd, mean and sd are
fitted by the Gaussian likelihood, and the loss of the flow does not reach them (it would shrink sd, and with it
itself). `variant: shortcut` also learns the average velocity over steps of any power of two (shortcut.py).
B rows, T tokens, D width, L latent channels, n samples, M targets, W head width.
"""

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from neurochorus.data_shards.settings import at_least, settings
from neurochorus.models.heads.base import (
    AdaptiveBlock,
    AdaptiveOutput,
    Generators,
    Head,
    drawn_targets,
    every_target,
    masked_mean,
    normal,
    waves,
)
from neurochorus.models.heads.gaussian_path import average_velocity_factor, velocity_factor
from neurochorus.models.heads.hidden_gaussian import HiddenGaussian, negative_log_likelihood
from neurochorus.models.heads.shortcut import draw_steps, two_half_steps
from neurochorus.models.heads.solvers import integrate, integrate_adaptively


@settings
class FlowHeadConfig:
    width: int = 192
    """Channels of the network that gives the velocity."""
    blocks: int = 3
    """Residual blocks of that network."""
    steps: int = 4
    """Solver steps when sampling; of `midpoint` each takes two calls of the network."""
    solver: Literal["euler", "exponential", "midpoint", "heun", "rk4", "adaptive"] = "midpoint"
    """With as many calls, `euler` leaves samples too narrow (RESULTS.md). `exponential` is euler for F and exact for
    a(t) x; `adaptive` (pip install 'neurochorus[ode]') takes its own steps, each row by itself, as a slow reference."""
    times: Literal["uniform", "logit_normal"] = "uniform"
    """Distribution of the training times t."""
    draws: int = 2
    """(x_0, t) pairs a token in the loss."""
    antithetic: bool = False
    """Noise comes in pairs x_0, -x_0: in the loss (at the same t) and between draws 2k and 2k + 1 of one call of
    `sample`, whose mean is then nearer to the distribution's; such draws are not independent, and a rollout, which
    asks for one at a time, has none of it."""
    time_features: int = 16
    """Sines and cosines of the time t that it reads; an even number."""
    residual_sd: float = 1.0
    """The s of a(t): the spread that the targets are expected to have given the past, in units of the source."""
    source: Literal["standard", "hidden"] = "hidden"
    """Where the flow starts: N(0, I) as published, or a Gaussian fitted to each hidden state, which makes the scale of
    the targets no matter."""
    variant: Literal["velocity", "shortcut"] = "velocity"
    """`shortcut` samples well in 1, 2, 4, ... steps, and is its own solver."""
    shortcut_share: float = 0.25
    """Share of the loss and of its tokens that goes into agreement of one step with two half steps."""
    shortcut_finest: int = 64
    """Number of the shortest steps that the network tells from infinitely short ones; a power of two."""

    def problems(self) -> list[str]:
        found = at_least(self, 1, "steps", "draws", "width", "blocks", "time_features")
        if self.time_features % 2:
            found.append(f"time_features: expected an even number (sines and cosines), found {self.time_features}")
        if not self.residual_sd > 0:
            found.append("residual_sd: expected a positive number")
        if self.antithetic and self.draws % 2:
            found.append(f"draws: antithetic noise comes in pairs: expected an even number, found {self.draws}")
        return found + (self._shortcut_problems() if self.variant == "shortcut" else [])

    def _shortcut_problems(self) -> list[str]:
        found = [
            f"{name}: a shortcut takes steps of powers of two: expected one from {least} on, found {count}"
            for name, count, least in (("steps", self.steps, 1), ("shortcut_finest", self.shortcut_finest, 2))
            if count < least or count & (count - 1)
        ]
        if not 0 < self.shortcut_share < 1:
            found.append(f"shortcut_share: expected a number between 0 and 1, found {self.shortcut_share}")
        return found


class FlowHead(Head):
    name = "flow"

    def __init__(self, config: FlowHeadConfig, hidden: int, latents: int):
        super().__init__()
        self.config, self.latents = config, latents
        self.state = nn.Linear(latents, config.width)
        self.hidden = nn.Linear(hidden, config.width)
        self.time = nn.Linear(config.time_features, config.width)
        self.blocks = nn.ModuleList([AdaptiveBlock(config.width, config.width) for _ in range(config.blocks)])
        self.output = AdaptiveOutput(config.width, config.width, latents)
        self.step = nn.Linear(config.time_features, config.width) if config.variant == "shortcut" else None
        self.source = HiddenGaussian(hidden, latents) if config.source == "hidden" else None

    def loss(self, hidden_BTD: Tensor, target: Tensor, mask_BT: Tensor) -> Tensor:
        """Mean square error of the velocity a channel, plus what fits the source and the shortcut."""
        target, fit = every_target(target), 0.0
        if self.source is not None:
            mean_BTL, sd_BTL = self.source(hidden_BTD)
            fit = masked_mean(negative_log_likelihood(mean_BTL, sd_BTL, target), mask_BT)
            target = (target - mean_BTL.detach()) / sd_BTL.detach()
        noise, t = self._noise_and_times(target[0])
        x_1, condition_BTW = drawn_targets(target, self.config.draws), self.hidden(hidden_BTD)
        error = self.velocity((1 - t) * noise + t * x_1, t, condition_BTW) - (x_1 - noise)
        flow = masked_mean(error.square().mean(dim=-1).mean(dim=0), mask_BT)
        if self.config.variant == "shortcut":
            share = self.config.shortcut_share
            flow = (1 - share) * flow + share * self._disagreement(noise, x_1, condition_BTW, mask_BT)
        return flow + fit

    def _noise_and_times(self, like_BTL: Tensor) -> tuple[Tensor, Tensor]:
        """x_0 (draws, B, T, L) and t (draws, B, T, 1)."""
        pairs = 2 if self.config.antithetic else 1
        shape = (self.config.draws // pairs, *like_BTL.shape)
        noise = torch.randn(shape, device=like_BTL.device)
        t = torch.rand(*shape[:-1], 1, device=like_BTL.device)
        if self.config.times == "logit_normal":
            t = torch.randn_like(t).sigmoid()
        return (torch.cat((noise, -noise)), torch.cat((t, t))) if pairs == 2 else (noise, t)

    def _disagreement(self, x_0: Tensor, x_1: Tensor, condition_BTW: Tensor, mask_BT: Tensor) -> Tensor:
        """Square error of one step against two half steps, a channel, at a share of the tokens."""
        tokens, all_draws = mask_BT.numel(), self.config.draws * mask_BT.numel()
        chosen = torch.randperm(all_draws, device=x_0.device)[: math.ceil(self.config.shortcut_share * all_draws)]
        x_0, x_1 = x_0.flatten(0, 2)[chosen], x_1.flatten(0, 2)[chosen]
        condition = condition_BTW.flatten(0, 1)[chosen % tokens]
        t, step = draw_steps(len(chosen), self.config.shortcut_finest, x_0.device)
        x_t = (1 - t) * x_0 + t * x_1
        with torch.no_grad():
            goal = two_half_steps(self.average_velocity, x_t, t, step, condition)
        error = self.average_velocity(x_t, t, step, condition) - goal
        return masked_mean(error.square().mean(dim=-1), mask_BT.flatten()[chosen % tokens])

    def velocity(self, x: Tensor, t: Tensor, condition: Tensor) -> Tensor:
        """v(x, t, h): x (..., L), t (..., 1), `condition` = the projected hidden state, broadcastable to (..., W)."""
        return velocity_factor(t, self.config.residual_sd) * x + self._learnt(x, t, torch.zeros_like(t), condition)

    def average_velocity(self, x: Tensor, t: Tensor, step: Tensor, condition: Tensor) -> Tensor:
        """Average velocity over [t, t + step], step (..., 1) > 0; exact for N(0, s^2 I) whatever the step.

        The plain velocity head, and a shortcut whose step is among the shortest, take F at t for that of the step.
        """
        factor = average_velocity_factor(t, step, self.config.residual_sd)
        return factor * x + self._learnt(x, t, step, condition)

    def _learnt(self, x: Tensor, t: Tensor, step: Tensor, condition: Tensor) -> Tensor:
        condition = condition + self.time(waves(t, self.config.time_features))
        if self.step is not None:
            finest = self.config.shortcut_finest
            level = (step * finest).clamp_min(1).log2() / math.log2(finest)  # 0 for the shortest step, 1 for all of it
            condition = condition + self.step(waves(level, self.config.time_features))
        y = self.state(x)
        for block in self.blocks:
            y = block(y, condition)
        return self.output(y, condition).float()

    def sample(self, hidden_BD: Tensor, n: int, generator: Generators, temperature: float = 1.0) -> Tensor:
        if self.config.antithetic:
            half = normal((n + 1) // 2, len(hidden_BD), self.latents, generator, hidden_BD)
            noise = torch.stack((half, -half), dim=1).flatten(0, 1)[:n]
        else:
            noise = normal(n, len(hidden_BD), self.latents, generator, hidden_BD)
        x = self._flow(noise * temperature, self.hidden(hidden_BD))  # hidden: once a token, not once a solver step
        if self.source is None:
            return x
        mean_BL, sd_BL = self.source(hidden_BD)
        return mean_BL + sd_BL * x

    def _flow(self, x: Tensor, condition_BW: Tensor) -> Tensor:
        """Carry x (n, B, L) from t = 0 to t = 1."""
        steps, solver = self.config.steps, self.config.solver
        if solver == "adaptive":
            rows = range(x.shape[1])
            return torch.cat(
                [integrate_adaptively(self._velocity_at(condition_BW[b : b + 1]), x[:, b : b + 1]) for b in rows], dim=1
            )
        if solver == "exponential" or self.config.variant == "shortcut":
            step = x.new_full((1, 1, 1), 1 / steps)

            def average(x: Tensor, t: float) -> Tensor:
                return self.average_velocity(x, x.new_full((1, 1, 1), t), step, condition_BW)

            return integrate(average, x, steps, "euler")
        return integrate(self._velocity_at(condition_BW), x, steps, solver)

    def _velocity_at(self, condition_BW: Tensor) -> Callable[[Tensor, float], Tensor]:
        return lambda x, t: self.velocity(x, x.new_full((1, 1, 1), t), condition_BW)
