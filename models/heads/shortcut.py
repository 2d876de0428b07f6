"""Shortcuts: a flow's average velocity over a step, learnt so that one step equals two half steps.

Frans et al. 2024 (arXiv 2410.12557), eq. 4-5: for steps d in powers of two,

    s(x_t, t, d) = (s(x_t, t, d/2) + s(x_{t + d/2}, t + d/2, d/2)) / 2,    x_{t + d/2} = x_t + d/2 s(x_t, t, d/2)

with the right side held fixed, from the ordinary velocity at d = 0 up to the whole way at d = 1. Differences: the
part of s that a Gaussian explains is exact at every d (gaussian_path.py) rather than learnt, and the current weights
rather than their moving average make the right side.
"""

from collections.abc import Callable

import torch
from torch import Tensor

AverageVelocity = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""(x, t, step, condition) -> average velocity over [t, t + step]."""


def draw_steps(count: int, finest: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Times t and steps d, (count, 1): d = 1, 1/2, ... 2/finest equally often, t a multiple of d below 1."""
    levels = finest.bit_length() - 1
    step = torch.exp2(-torch.randint(levels, (count, 1), device=device).float())
    t = torch.floor(torch.rand(count, 1, device=device) / step) * step
    return t, step


def two_half_steps(velocity: AverageVelocity, x: Tensor, t: Tensor, step: Tensor, condition: Tensor) -> Tensor:
    """Average velocity over [t, t + step] when it is gone in two half steps."""
    half = 0.5 * step
    first = velocity(x, t, half, condition)
    second = velocity(x + half * first, t + half, half, condition)
    return 0.5 * (first + second)
