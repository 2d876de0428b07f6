"""Spikes driven by the Lorenz attractor, as LDNS makes them (Kapoor et al. 2024, ldns/data/latent_attractor.py).

    dx/dt = 10 (y - x),  dy/dt = x (28 - z) - y,  dz/dt = x y - 2.667 z
    rate  = softplus(C x + b, beta = 2) per bin,   counts ~ Poisson(rate)

with C of unit-norm rows sorted by their first column, b = log 0.3, x z-scored per trajectory and dimension.
Letters: B trajectories, T bins, C units, 3 latents.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy.integrate import solve_ivp
from scipy.optimize import brentq

from neurochorus.data_shards.recipe_synthetic import LorenzRecipe

SIGMA, RHO, BETA = 10.0, 28.0, 2.667
START = np.array([-9.787, -15.039, 20.534])  # dysts.flows.Lorenz; LDNS adds noise of sd 2
START_SD = 2.0
BIAS = float(np.log(0.3))
# of the attractor itself, measured over 300 trajectories of 2,000 bins after 1,500 (x and y are symmetric around 0)
SYSTEM_MEAN = np.array([0.0, 0.0, 23.54])
SYSTEM_SD = np.array([7.92, 9.02, 8.63])
FRESH_STREAM = 2  # seeds of fresh trials; 0 and 1 are those of synthetic.py


def simulate_lorenz(recipe: LorenzRecipe, trials: int, bins: int, generator: np.random.Generator) -> np.ndarray:
    """Return normalised trajectories (trials, bins, 3), float64; each starts at its own random point."""
    starts_B3 = START + START_SD * generator.standard_normal((trials, 3))
    times = recipe.step * np.arange(recipe.burn_in_bins, recipe.burn_in_bins + bins)
    # all trajectories are one system to the solver: its step is then the smallest that any of them needs
    solution = solve_ivp(
        _derivative, (0.0, times[-1]), starts_B3.T.reshape(-1), method="DOP853", t_eval=times, rtol=1e-7, atol=1e-7
    )
    assert solution.success, solution.message
    states_BT3 = solution.y.reshape(3, trials, bins).transpose(1, 2, 0)
    if recipe.normalise == "system":
        return (states_BT3 - SYSTEM_MEAN) / SYSTEM_SD
    return (states_BT3 - states_BT3.mean(axis=1, keepdims=True)) / states_BT3.std(axis=1, keepdims=True)


def random_read_out(units: int, generator: np.random.Generator) -> np.ndarray:
    """Return C (units, 3): unit-norm rows, sorted by the first column."""
    weights = generator.standard_normal((units, 3))
    weights /= np.linalg.norm(weights, axis=1, keepdims=True)
    return weights[np.argsort(weights[:, 0])]


def fresh_trials(
    recipe: LorenzRecipe, truth: Mapping[str, Any], trials: int, bins: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return rates (B, T, C) and counts of new trials of a session: its own read-out and bias, new trajectories.

    `truth` is the session's `provenance["truth"]`. They are what a perfect model of the session would generate.
    """
    generator = np.random.default_rng([seed, FRESH_STREAM])
    latents_BT3 = simulate_lorenz(recipe, trials, bins, generator)
    rates_BTC = softplus(latents_BT3 @ np.array(truth["read_out"]).T + float(truth["bias"]))
    return rates_BTC, generator.poisson(rates_BTC)


def bias_for_rate(drive: np.ndarray, mean_rate: float) -> float:
    """Return the b at which softplus(drive + b, beta=2) has the given mean."""
    return float(brentq(lambda bias: softplus(drive + bias).mean() - mean_rate, -60.0, 60.0))  # type: ignore[arg-type]


def softplus(values: np.ndarray) -> np.ndarray:
    """Return log(1 + exp(2 x)) / 2, the softplus of beta 2."""
    return np.logaddexp(0.0, 2.0 * values) / 2.0


def _derivative(_: float, flat: np.ndarray) -> np.ndarray:
    x, y, z = flat.reshape(3, -1)
    return np.concatenate([SIGMA * (y - x), x * (RHO - z) - y, x * y - BETA * z])
