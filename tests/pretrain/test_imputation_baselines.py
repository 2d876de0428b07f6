"""What is filled in without a network, where the answer is known."""

import numpy as np
import pytest

from neurochorus.pretrain.evaluation.forecaster import usual_values
from neurochorus.pretrain.evaluation.imputation_baselines import Interpolation, OtherUnitsRidge
from neurochorus.pretrain.evaluation.metrics import r2


def test_interpolation_goes_straight_across_and_reads_nothing_in_the_gap() -> None:
    level = np.linspace(1.0, 4.0, 20)[None, :, None] * np.array([1.0, -2.0])
    signal = np.concatenate([level, 2 * level, -level])
    baseline = Interpolation("continuous", signal, signal, (8, 12))
    assert baseline.chosen == {"decay_bins": 1.0, "share": 1.0}
    hidden = signal.copy()
    hidden[:, 8:12] = np.nan
    np.testing.assert_allclose(baseline.predict(hidden), signal[:, 8:12], rtol=0.03)


@pytest.mark.parametrize("gap", [(0, 5), (15, 20)])
def test_interpolation_holds_the_only_side_there_is(gap: tuple[int, int]) -> None:
    signal = np.random.default_rng(0).normal(size=(30, 1, 3)) + np.zeros((30, 20, 3))
    baseline = Interpolation("continuous", signal, signal, gap)
    np.testing.assert_allclose(baseline.predict(signal), signal[:, gap[0] : gap[1]], atol=1e-9)


def test_interpolation_of_noise_is_the_train_mean() -> None:
    counts = np.random.default_rng(1).poisson(0.4, (200, 20, 4))
    baseline = Interpolation("spikes", counts[:100], counts[100:], (8, 12))
    assert baseline.chosen["share"] == 0.05
    np.testing.assert_allclose(baseline.predict(counts), 0.4 * np.ones((200, 4, 4)), atol=0.1)


def test_ridge_finds_what_the_other_units_say() -> None:
    generator = np.random.default_rng(2)
    latent = np.cumsum(generator.normal(size=(60, 40, 2)), axis=1) / 5
    clean = latent @ generator.normal(size=(2, 10))
    signal = clean + 0.3 * generator.normal(size=(60, 40, 10))
    hidden = np.arange(10) < 3
    baseline = OtherUnitsRidge("continuous", signal[:30], signal[30:40], hidden)
    seen = signal[40:].copy()
    seen[:, :, hidden] = np.nan
    assert r2(clean[40:, :, hidden], baseline.predict(seen)) > 0.9
    true_rates = np.exp(0.7 * latent @ generator.normal(size=(2, 10)) - 0.5).clip(max=20)
    counts = generator.poisson(true_rates)
    baseline = OtherUnitsRidge("spikes", counts[:30], counts[30:40], hidden)
    rates = baseline.predict(counts[40:])
    assert rates.min() >= 0.1 * usual_values("spikes", counts[:30])[hidden].min() - 1e-12
    assert r2(true_rates[40:, :, hidden], rates) > 0.3
