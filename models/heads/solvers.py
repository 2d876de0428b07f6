"""Solvers of dx/dt = v(x, t) from t = 0 to t = 1.

Network calls a step and order of the global error: euler 1, 1; midpoint 2, 2; heun 2, 2; rk4 4, 4. `adaptive` is
dopri5 of torchdiffeq with a tolerance far below what a head has learnt: the reference to compare the others with.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Velocity = Callable[[Tensor, float], Tensor]


def euler(velocity: Velocity, x: Tensor, t: float, step: float) -> Tensor:
    return x + step * velocity(x, t)


def midpoint(velocity: Velocity, x: Tensor, t: float, step: float) -> Tensor:
    half = x + 0.5 * step * velocity(x, t)
    return x + step * velocity(half, t + 0.5 * step)


def heun(velocity: Velocity, x: Tensor, t: float, step: float) -> Tensor:
    first = velocity(x, t)
    second = velocity(x + step * first, t + step)
    return x + 0.5 * step * (first + second)


def rk4(velocity: Velocity, x: Tensor, t: float, step: float) -> Tensor:
    first = velocity(x, t)
    second = velocity(x + 0.5 * step * first, t + 0.5 * step)
    third = velocity(x + 0.5 * step * second, t + 0.5 * step)
    fourth = velocity(x + step * third, t + step)
    return x + step / 6 * (first + 2 * second + 2 * third + fourth)


SOLVERS = {"euler": euler, "midpoint": midpoint, "heun": heun, "rk4": rk4}


def integrate(velocity: Velocity, x: Tensor, steps: int, solver: str) -> Tensor:
    """Carry x from t = 0 to t = 1 in `steps` equal steps. Raises ValueError for an unknown solver."""
    if solver not in SOLVERS:
        raise ValueError(f"solver '{solver}' is unknown; valid: {', '.join(SOLVERS)}, adaptive")
    for index in range(steps):
        x = SOLVERS[solver](velocity, x, index / steps, 1 / steps)
    return x


def integrate_adaptively(velocity: Velocity, x: Tensor, tolerance: float = 1e-5) -> Tensor:
    """Carry x from t = 0 to t = 1 in as many steps as keep each one's error below `tolerance`.

    The error is that of all of x together, so what is solved together shares its steps. Raises ValueError where
    torchdiffeq is not installed.
    """
    try:
        from torchdiffeq import odeint
    except ImportError:
        raise ValueError(
            "heads.flow.solver 'adaptive' needs torchdiffeq, which is not installed: pip install 'neurochorus[ode]', "
            "or choose another solver"
        ) from None
    ends = torch.tensor([0.0, 1.0], dtype=x.dtype, device=x.device)
    path: Any = odeint(lambda t, x: velocity(x, float(t)), x, ends, method="dopri5", rtol=tolerance, atol=tolerance)
    return path[-1]
