"""The path from noise to Gaussian data, where everything is known: the part of a flow that needs no learning.

x_t = (1 - t) x_0 + t x_1 with x_0 ~ N(0, 1), x_1 ~ N(0, s^2) has variance (1 - t)^2 + t^2 s^2 in each channel, and the
flow scales x by the ratio of standard deviations: x_{t+d} = x_t sqrt(variance(t + d) / variance(t)).
"""

import torch
from torch import Tensor


def variance(t: Tensor, sd: float) -> Tensor:
    return (1 - t).square() + (t * sd).square()


def velocity_factor(t: Tensor, sd: float) -> Tensor:
    """a(t) with v(x, t) = a(t) x: half the logarithmic derivative of the variance."""
    return (t * sd**2 - (1 - t)) / variance(t, sd)


def average_velocity_factor(t: Tensor, step: Tensor, sd: float) -> Tensor:
    """The same for the average velocity over [t, t + step], step > 0: (x_{t+step} - x_t) / step = factor x_t."""
    return (torch.sqrt(variance(t + step, sd) / variance(t, sd)) - 1) / step
