"""A linear-Gaussian state space model, whose forecasts are known exactly.

    z_0 ~ N(B u_0, P),      z_t = A z_{t-1} + B u_t + w_t,   w_t ~ N(0, Q)
    x_t = C z_t + d + v_t,  v_t ~ N(0, diag r)

A turns each pair of latents by 2 pi / period and shrinks it to `decay`; Q = 1 - decay^2 on the diagonal, so that
without a drive P = I is the stationary covariance. A and B are shared by all sessions; C, d and r are a session's own.
Letters: L latents, C units, K columns of the drive, T bins, H bins ahead, B trials.
"""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from neurochorus.data_shards.recipe_synthetic import LinearGaussianRecipe


@dataclass(frozen=True)
class LinearGaussianSystem:
    transition_LL: np.ndarray
    drive_LK: np.ndarray
    process_covariance_LL: np.ndarray
    initial_covariance_LL: np.ndarray
    read_out_CL: np.ndarray
    offset_C: np.ndarray
    noise_variance_C: np.ndarray

    def to_dict(self) -> dict[str, Any]:
        """Return the matrices as nested lists, as the provenance of a session holds them under `truth`."""
        return {name: value.tolist() for name, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "LinearGaussianSystem":
        """Read back what `to_dict` wrote."""
        latents = len(values["transition_LL"])
        arrays = {name: np.array(value, dtype=np.float64) for name, value in values.items()}
        arrays["drive_LK"] = arrays["drive_LK"].reshape(latents, -1)
        return cls(**arrays)


@dataclass(frozen=True)
class Forecast:
    """Mean and covariance of the H bins after the context, each bin by itself."""

    latent_mean_HL: np.ndarray
    latent_covariance_HLL: np.ndarray
    signal_mean_HC: np.ndarray
    signal_covariance_HCC: np.ndarray


def make_system(
    recipe: LinearGaussianRecipe, units: int, shared: np.random.Generator, own: np.random.Generator
) -> LinearGaussianSystem:
    """Return the system of one session: dynamics from `shared`, read-out and noise from its `own` generator."""
    latents = 2 * len(recipe.decay)
    transition = np.zeros((latents, latents))
    for pair, (decay, period) in enumerate(zip(recipe.decay, recipe.period_bins)):
        angle = 2 * np.pi / period
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        transition[2 * pair : 2 * pair + 2, 2 * pair : 2 * pair + 2] = decay * turn
    read_out = own.standard_normal((units, latents)) / np.sqrt(latents)
    return LinearGaussianSystem(
        transition_LL=transition,
        drive_LK=recipe.drive_gain * shared.standard_normal((latents, recipe.drive)),
        process_covariance_LL=np.diag(1 - np.repeat(np.array(recipe.decay), 2) ** 2),
        initial_covariance_LL=np.eye(latents),
        read_out_CL=read_out,
        offset_C=own.standard_normal(units),
        noise_variance_C=own.uniform(recipe.noise_sd[0], recipe.noise_sd[1], units) ** 2,
    )


def random_drive(recipe: LinearGaussianRecipe, trials: int, bins: int, generator: np.random.Generator) -> np.ndarray:
    """Return a drive (trials, bins, K) of -1 and 1 that changes sides with probability 1/20 a bin."""
    flips = np.where(generator.random((trials, bins, recipe.drive)) < 0.05, -1.0, 1.0)
    flips[:, :1] = generator.choice([-1.0, 1.0], size=flips[:, :1].shape)
    return np.cumprod(flips, axis=1)


def simulate(
    system: LinearGaussianSystem, drive_BTK: np.ndarray, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Return latents (B, T, L) and signal (B, T, C) drawn from the system."""
    trials, bins, _ = drive_BTK.shape
    latents = len(system.transition_LL)
    first = _root(system.initial_covariance_LL)
    later = _root(system.process_covariance_LL)
    noise_BTL = generator.standard_normal((trials, bins, latents))
    latents_BTL = np.empty((trials, bins, latents))
    for bin_ in range(bins):
        pushed = drive_BTK[:, bin_] @ system.drive_LK.T
        if bin_ == 0:
            latents_BTL[:, 0] = pushed + noise_BTL[:, 0] @ first.T
        else:
            latents_BTL[:, bin_] = (
                latents_BTL[:, bin_ - 1] @ system.transition_LL.T + pushed + noise_BTL[:, bin_] @ later.T
            )
    observation_noise = generator.standard_normal((trials, bins, len(system.offset_C))) * np.sqrt(
        system.noise_variance_C
    )
    return latents_BTL, latents_BTL @ system.read_out_CL.T + system.offset_C + observation_noise


def filter_latents(
    system: LinearGaussianSystem, signal_TC: np.ndarray, drive_TK: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Return mean (T, L) and covariance (T, L, L) of z_t given x_0 ... x_t: the Kalman filter.

    The update is in information form, which needs L x L solves only: S = (P^-1 + C' R^-1 C)^-1.
    """
    pushed_TL = _pushed(system, drive_TK, len(signal_TC))
    weighted_LC = system.read_out_CL.T / system.noise_variance_C
    information_LL = weighted_LC @ system.read_out_CL
    means, covariances = [], []
    mean, covariance = pushed_TL[0], system.initial_covariance_LL
    for bin_, signal_C in enumerate(signal_TC):
        if bin_ > 0:
            mean = system.transition_LL @ mean + pushed_TL[bin_]
            covariance = system.transition_LL @ covariance @ system.transition_LL.T + system.process_covariance_LL
        covariance = np.linalg.inv(np.linalg.inv(covariance) + information_LL)
        covariance = (covariance + covariance.T) / 2
        mean = mean + covariance @ weighted_LC @ (signal_C - system.offset_C - system.read_out_CL @ mean)
        means.append(mean)
        covariances.append(covariance)
    return np.stack(means), np.stack(covariances)


def forecast(
    system: LinearGaussianSystem, context_TC: np.ndarray, horizon: int, drive_TK: np.ndarray | None = None
) -> Forecast:
    """Return the exact distribution of each of the next `horizon` bins given the context.

    `drive_TK` covers context and horizon; it is needed when the system has a drive.
    """
    bins = len(context_TC)
    pushed_TL = _pushed(system, drive_TK, bins + horizon)
    context_drive = None if drive_TK is None else drive_TK[:bins]
    means, covariances = filter_latents(system, context_TC, context_drive)
    mean, covariance = means[-1], covariances[-1]
    ahead_means, ahead_covariances = [], []
    for step in range(horizon):
        mean = system.transition_LL @ mean + pushed_TL[bins + step]
        covariance = system.transition_LL @ covariance @ system.transition_LL.T + system.process_covariance_LL
        ahead_means.append(mean)
        ahead_covariances.append(covariance)
    latent_mean_HL, latent_covariance_HLL = np.stack(ahead_means), np.stack(ahead_covariances)
    read_out = system.read_out_CL
    return Forecast(
        latent_mean_HL=latent_mean_HL,
        latent_covariance_HLL=latent_covariance_HLL,
        signal_mean_HC=latent_mean_HL @ read_out.T + system.offset_C,
        signal_covariance_HCC=read_out @ latent_covariance_HLL @ read_out.T + np.diag(system.noise_variance_C),
    )


def _pushed(system: LinearGaussianSystem, drive_TK: np.ndarray | None, bins: int) -> np.ndarray:
    """Return B u_t (bins, L), zero without a drive."""
    width = system.drive_LK.shape[1]
    if drive_TK is None:
        if width:
            raise ValueError(f"the system has a drive of {width} columns: give it for all {bins} bins")
        return np.zeros((bins, len(system.transition_LL)))
    if drive_TK.shape != (bins, width):
        raise ValueError(f"the drive has shape {drive_TK.shape}; expected ({bins}, {width})")
    return drive_TK @ system.drive_LK.T


def _root(covariance: np.ndarray) -> np.ndarray:
    return np.linalg.cholesky(covariance)
