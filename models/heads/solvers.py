"""Fixed-step solvers of dx/dt = v(x, t) from t = 0 to t = 1.

Network calls a step and order of the global error: euler 1, 1; midpoint 2, 2; heun 2, 2; rk4 4, 4.
"""

from collections.abc import Callable

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
        raise ValueError(f"solver '{solver}' is unknown; valid: {', '.join(SOLVERS)}")
    for index in range(steps):
        x = SOLVERS[solver](velocity, x, index / steps, 1 / steps)
    return x
