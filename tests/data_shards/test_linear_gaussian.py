import numpy as np
import pytest

from neurochorus.data_shards.importers.linear_gaussian import (
    LinearGaussianSystem,
    filter_latents,
    forecast,
    make_system,
    random_drive,
    simulate,
)
from neurochorus.data_shards.recipe_synthetic import LinearGaussianRecipe


def make(drive: int = 0, units: int = 3, **changes: list[float]) -> tuple[LinearGaussianRecipe, LinearGaussianSystem]:
    recipe = LinearGaussianRecipe(drive=drive, **changes)  # type: ignore[arg-type]
    return recipe, make_system(recipe, units, np.random.default_rng(1), np.random.default_rng(2))


def condition_jointly(system: LinearGaussianSystem, signal_TC: np.ndarray, pushed_TL: np.ndarray) -> tuple:
    """Return mean and covariance of all latents given the first bins of signal, from the joint normal distribution."""
    bins, latents = pushed_TL.shape
    context = len(signal_TC)
    means, covariance = np.zeros((bins, latents)), np.zeros((bins, latents, bins, latents))
    means[0], covariance[0, :, 0] = pushed_TL[0], system.initial_covariance_LL
    for t in range(1, bins):
        means[t] = system.transition_LL @ means[t - 1] + pushed_TL[t]
        covariance[t, :, :t] = np.einsum("ij,jtk->itk", system.transition_LL, covariance[t - 1, :, :t])
        covariance[:t, :, t] = covariance[t, :, :t].transpose(1, 2, 0)
        covariance[t, :, t] = (
            system.transition_LL @ covariance[t - 1, :, t - 1] @ system.transition_LL.T + system.process_covariance_LL
        )
    joint = covariance.reshape(bins * latents, -1)
    read = np.kron(np.eye(context, bins), system.read_out_CL)
    seen = read @ joint @ read.T + np.kron(np.eye(context), np.diag(system.noise_variance_C))
    gain = joint @ read.T @ np.linalg.inv(seen)
    surprise = signal_TC.reshape(-1) - np.tile(system.offset_C, context) - read @ means.reshape(-1)
    return means.reshape(-1) + gain @ surprise, joint - gain @ read @ joint


@pytest.mark.parametrize("drive", [0, 2])
def test_forecast_equals_conditioning_of_the_joint_distribution(drive: int) -> None:
    recipe, system = make(drive)
    generator = np.random.default_rng(3)
    context, horizon, latents = 8, 5, 4
    drive_BTK = random_drive(recipe, 1, context + horizon, generator)
    _, signal_BTC = simulate(system, drive_BTK, generator)
    got = forecast(system, signal_BTC[0, :context], horizon, drive_BTK[0] if drive else None)
    mean, covariance = condition_jointly(system, signal_BTC[0, :context], drive_BTK[0] @ system.drive_LK.T)
    mean_TL = mean.reshape(-1, latents)
    covariance_TLTL = covariance.reshape(context + horizon, latents, context + horizon, latents)
    np.testing.assert_allclose(got.latent_mean_HL, mean_TL[context:], atol=1e-9)
    for step in range(horizon):
        at = context + step
        np.testing.assert_allclose(got.latent_covariance_HLL[step], covariance_TLTL[at, :, at], atol=1e-9)
        expected = system.read_out_CL @ covariance_TLTL[at, :, at] @ system.read_out_CL.T
        np.testing.assert_allclose(
            got.signal_covariance_HCC[step], expected + np.diag(system.noise_variance_C), atol=1e-9
        )
    means, covariances = filter_latents(system, signal_BTC[0, :context], drive_BTK[0, :context] if drive else None)
    now, now_covariance = condition_jointly(
        system, signal_BTC[0, :context], (drive_BTK[0] @ system.drive_LK.T)[:context]
    )
    np.testing.assert_allclose(means[-1], now.reshape(-1, latents)[-1], atol=1e-9)
    np.testing.assert_allclose(covariances[-1], now_covariance[-latents:, -latents:], atol=1e-9)


def test_forecast_agrees_with_monte_carlo() -> None:
    """Over many simulated trials, forecast errors have mean zero and the covariance that the forecast states."""
    recipe, system = make(drive=1)
    generator = np.random.default_rng(4)
    trials, context, horizon = 3000, 12, 4
    drive_BTK = random_drive(recipe, trials, context + horizon, generator)
    _, signal_BTC = simulate(system, drive_BTK, generator)
    stated = None
    errors = []
    for trial in range(trials):
        stated = forecast(system, signal_BTC[trial, :context], horizon, drive_BTK[trial])
        errors.append(signal_BTC[trial, context:] - stated.signal_mean_HC)
    assert stated is not None
    errors_BHC = np.stack(errors)
    for step in range(horizon):
        covariance = stated.signal_covariance_HCC[step]  # the same for every trial: it does not depend on the data
        sd = np.sqrt(np.diag(covariance))
        standard_error = sd / np.sqrt(trials)
        assert (np.abs(errors_BHC[:, step].mean(axis=0)) < 4 * standard_error).all()
        empirical = np.cov(errors_BHC[:, step].T)
        assert (np.abs(empirical - covariance) < 5 * np.outer(sd, sd) * np.sqrt(2 / trials)).all()


def test_without_a_drive_the_latents_are_stationary_with_unit_variance() -> None:
    recipe, system = make()
    latents_BTL, _ = simulate(
        system, random_drive(recipe, 4000, 30, np.random.default_rng(5)), np.random.default_rng(6)
    )
    for bin_ in (0, 29):
        np.testing.assert_allclose(np.cov(latents_BTL[:, bin_].T), np.eye(4), atol=0.1)
    lag = (latents_BTL[:, 1:, 0] * latents_BTL[:, :-1, 0]).mean()
    assert lag == pytest.approx(0.98 * np.cos(2 * np.pi / 60), abs=0.02)


def test_sessions_share_dynamics_and_read_back() -> None:
    recipe = LinearGaussianRecipe(drive=1)
    systems = [make_system(recipe, 3, np.random.default_rng(1), np.random.default_rng(own)) for own in (2, 3)]
    np.testing.assert_array_equal(systems[0].drive_LK, systems[1].drive_LK)
    assert not np.allclose(systems[0].read_out_CL, systems[1].read_out_CL)
    for system in (systems[0], make()[1]):
        again = LinearGaussianSystem.from_dict(system.to_dict())
        for name, values in vars(system).items():
            np.testing.assert_array_equal(getattr(again, name), values)
            assert getattr(again, name).shape == values.shape


def test_a_missing_or_short_drive_is_refused() -> None:
    _, system = make(drive=1)
    with pytest.raises(ValueError, match="give it for all 7 bins"):
        forecast(system, np.zeros((4, 3)), 3)
    with pytest.raises(ValueError, match=r"shape \(4, 1\); expected \(7, 1\)"):
        forecast(system, np.zeros((4, 3)), 3, np.zeros((4, 1)))
