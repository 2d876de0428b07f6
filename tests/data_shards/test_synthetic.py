import numpy as np
import pytest

from neurochorus.data_shards.importers import count_recordings, import_recordings
from neurochorus.data_shards.importers.linear_gaussian import LinearGaussianSystem
from neurochorus.data_shards.importers.lorenz import (
    BIAS,
    SYSTEM_MEAN,
    SYSTEM_SD,
    fresh_trials,
    random_read_out,
    simulate_lorenz,
    softplus,
)
from neurochorus.data_shards.recipe import Recipe
from neurochorus.data_shards.recipe_synthetic import LorenzRecipe
from neurochorus.data_shards.settings import parse_settings


def make_recipe(**synthetic: object) -> Recipe:
    values = {"system": "lorenz", "subjects": ["fox", "hare"], "sessions": 2, "units": [5, 9], "trials": 10}
    return parse_settings(
        Recipe,
        {"name": "made", "importer": "synthetic", "bin_s": 0.01, "sample_bins": 50, "synthetic": values | synthetic},
        "test",
    )


def test_lorenz_has_the_statistics_of_ldns() -> None:
    """Kapoor et al. 2024: lag-1 autocorrelation 0.993, mean rate 0.14 per bin, highest rate about 4.2."""
    generator = np.random.default_rng(0)
    latents_BT3 = simulate_lorenz(LorenzRecipe(), trials=200, bins=256, generator=generator)
    assert latents_BT3.shape == (200, 256, 3)
    np.testing.assert_allclose(latents_BT3.mean(axis=1), 0, atol=1e-9)
    np.testing.assert_allclose(latents_BT3.std(axis=1), 1, atol=1e-9)
    lag_1 = (latents_BT3[:, 1:] * latents_BT3[:, :-1]).mean(axis=1)
    assert lag_1[:, 0].mean() == pytest.approx(0.993, abs=0.003)
    read_out = random_read_out(128, generator)
    np.testing.assert_allclose(np.linalg.norm(read_out, axis=1), 1)
    rates = softplus(latents_BT3 @ read_out.T + BIAS)
    assert rates.mean() == pytest.approx(0.14, abs=0.01)
    assert 2.5 < rates.max() < 5
    population_sd = generator.poisson(rates).sum(axis=2).std()
    assert population_sd == pytest.approx(14, abs=3)  # differs by 1 between read-outs


def test_fresh_trials_have_the_sessions_own_read_out() -> None:
    recipe = make_recipe(trials=300, units=[20, 20], subjects=["fox"], sessions=1)
    (recording,) = import_recordings(recipe)
    assert recipe.synthetic is not None
    truth = recording.provenance["truth"]
    rates, counts = fresh_trials(recipe.synthetic.lorenz, truth, 300, 100, seed=7)
    assert rates.shape == counts.shape == (300, 100, 20)
    np.testing.assert_allclose(counts.mean(axis=(0, 1)), rates.mean(axis=(0, 1)), atol=0.02)
    recorded = recording.signal_TC.reshape(300, 100, 20)
    np.testing.assert_allclose(counts.mean(axis=(0, 1)), recorded.mean(axis=(0, 1)), atol=0.03)
    own, again, other = (fresh_trials(recipe.synthetic.lorenz, truth, 5, 100, seed)[1] for seed in (7, 7, 8))
    np.testing.assert_array_equal(own, again)
    assert not np.array_equal(own, other)
    assert not np.array_equal(counts, recorded)


def test_lorenz_obeys_its_equations() -> None:
    """Second-order differences of the trajectory equal the right-hand side, to the order of the step."""
    recipe = LorenzRecipe(normalise="system", step=0.001, burn_in_bins=0)
    states = simulate_lorenz(recipe, 3, 200, np.random.default_rng(0)) * SYSTEM_SD + SYSTEM_MEAN
    slope = (states[:, 2:] - states[:, :-2]) / (2 * recipe.step)
    x, y, z = np.moveaxis(states[:, 1:-1], -1, 0)
    expected = np.stack([10 * (y - x), x * (28 - z) - y, x * y - 2.667 * z], axis=-1)
    np.testing.assert_allclose(slope, expected, atol=0.02)


def test_the_attractors_own_scale_is_right() -> None:
    recipe = LorenzRecipe(normalise="system", burn_in_bins=1000)
    latents = simulate_lorenz(recipe, 100, 600, np.random.default_rng(0)).reshape(-1, 3)
    np.testing.assert_allclose(latents.mean(axis=0), 0, atol=0.12)
    np.testing.assert_allclose(latents.std(axis=0), 1, atol=0.02)


def test_softplus_has_beta_two() -> None:
    assert softplus(np.array([0.0, 40.0])).tolist() == pytest.approx([np.log(2) / 2, 40.0])


def test_sessions_differ_but_come_back_the_same() -> None:
    recipe = make_recipe()
    recordings = list(import_recordings(recipe))
    assert count_recordings(recipe) == len(recordings) == 4
    assert [recording.session_id for recording in recordings] == ["fox_s1", "fox_s2", "hare_s1", "hare_s2"]
    assert [recording.subject_id for recording in recordings] == ["fox", "fox", "hare", "hare"]
    assert all(5 <= len(recording.units) <= 9 for recording in recordings)
    read_outs = [np.array(recording.provenance["truth"]["read_out"]) for recording in recordings]
    assert not np.allclose(read_outs[0][0], read_outs[1][0])
    for first, second in zip(recordings, import_recordings(recipe)):
        np.testing.assert_array_equal(first.signal_TC, second.signal_TC)
        assert first.provenance == second.provenance


def test_adding_an_animal_leaves_the_others_as_they_were() -> None:
    few = list(import_recordings(make_recipe(subjects=["fox"])))
    more = list(import_recordings(make_recipe(subjects=["fox", "otter"])))
    for first, second in zip(few, more):
        np.testing.assert_array_equal(first.signal_TC, second.signal_TC)


@pytest.mark.parametrize("mean_rate", [0.05, 0.3, 2.0])
def test_the_mean_rate_is_as_asked(mean_rate: float) -> None:
    recipe = make_recipe(trials=200, units=[20, 20], lorenz={"mean_rate": mean_rate})
    for recording in import_recordings(recipe):
        assert recording.signal_TC.mean() == pytest.approx(mean_rate, rel=0.05)


def test_linear_gaussian_sessions_carry_their_system() -> None:
    recipe = make_recipe(system="linear_gaussian", linear_gaussian={"drive": 1}, store_latents=True)
    first, second = list(import_recordings(recipe))[:2]
    system = LinearGaussianSystem.from_dict(first.provenance["truth"])
    other = LinearGaussianSystem.from_dict(second.provenance["truth"])
    np.testing.assert_array_equal(system.transition_LL, other.transition_LL)
    np.testing.assert_array_equal(system.drive_LK, other.drive_LK)
    assert first.modality == "continuous"
    assert first.covariates["drive"].shape == (1000, 1)
    residual = first.signal_TC - first.covariates["true_latent"] @ system.read_out_CL.T - system.offset_C
    np.testing.assert_allclose(residual.var(axis=0), system.noise_variance_C, rtol=0.2)


def test_a_source_for_a_synthetic_recipe_is_refused() -> None:
    with pytest.raises(ValueError, match="leave --source out"):
        import_recordings(make_recipe(), "somewhere")
