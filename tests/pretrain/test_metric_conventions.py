"""Scores under other repositories' conventions against scikit-learn and against their formulas written out."""

import numpy as np
import pytest
from scipy.special import gammaln
from sklearn.metrics import d2_tweedie_score, mean_absolute_error, mean_poisson_deviance, r2_score

from neurochorus.pretrain.evaluation.metric_conventions import conventions
from neurochorus.pretrain.evaluation.metrics import bits_per_spike, poisson_d2, r2
from tests.pretrain.test_metrics import nlb_bits_per_spike


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(5)


@pytest.fixture
def problem(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    truth = rng.gamma(2.0, 0.3, size=(20, 10, 6))
    return rng.poisson(truth).astype(float), truth * rng.uniform(0.5, 1.5, size=truth.shape)


def scores(modality: str, signal: np.ndarray, expected: np.ndarray, means: np.ndarray) -> dict[str, float]:
    return {one.name: one.score(signal, expected, means) for one in conventions(modality)}


def flat(values: np.ndarray, unit: int) -> np.ndarray:
    return values[..., unit].ravel()


def test_d2_is_scikit_learns(problem):
    counts, rates = problem
    each = [d2_tweedie_score(flat(counts, unit), flat(rates, unit), power=1) for unit in range(6)]
    assert poisson_d2(counts, rates) == pytest.approx(np.mean(each), rel=1e-6)
    assert scores("spikes", counts, rates, np.ones(6))["poisson_d2"] == pytest.approx(np.mean(each), rel=1e-6)


def test_bits_per_spike_is_scikit_learns_deviance(problem):
    """(D(null) - D(model)) / 2 is the gain in log-likelihood: the saturated model cancels."""
    counts, rates = problem
    gain = 0.0
    for unit in range(6):
        n, null = flat(counts, unit), np.full(200, counts[..., unit].mean())
        gain += 200 * (mean_poisson_deviance(n, null) - mean_poisson_deviance(n, flat(rates, unit))) / 2
    assert bits_per_spike(counts, rates) == pytest.approx(gain / counts.sum() / np.log(2), rel=1e-9)


def test_r2_is_scikit_learns(rng):
    signal = rng.normal(size=(12, 9, 4)) * [1.0, 3.0, 0.2, 8.0]
    predicted = signal + rng.normal(size=signal.shape)
    one, other = signal.reshape(-1, 4), predicted.reshape(-1, 4)
    assert r2(signal, predicted) == pytest.approx(r2_score(one, other), rel=1e-12)
    found = scores("continuous", signal, predicted, np.zeros(4))
    weighted = r2_score(one, other, multioutput="variance_weighted")
    assert found["r2_variance_weighted"] == pytest.approx(weighted, rel=1e-12)
    assert found["mae"] == pytest.approx(mean_absolute_error(one, other), rel=1e-12)


def mtm_mean(counts: np.ndarray, rates: np.ndarray) -> float:
    """MtM eval_utils.py: bits per spike of each neuron, infinities dropped, mean, and -5 for a mean below -10."""
    each = []
    for unit in range(counts.shape[-1]):
        with np.errstate(divide="ignore", invalid="ignore"):
            each.append(nlb_bits_per_spike(rates[..., [unit]], counts[..., [unit]]))
    each = np.where(np.isinf(each), np.nan, each)
    mean = float(np.nanmean(each))
    return -5.0 if mean < -10 else mean


def test_conventions_are_the_formulas_of_their_repositories(problem):
    counts, rates = problem
    counts[..., 2] = 0
    means = np.full(6, 0.5)
    found = scores("spikes", counts, rates, means)
    spiking = [0, 1, 3, 4, 5]
    assert found["bits_per_spike_mtm"] == pytest.approx(mtm_mean(counts, rates), rel=1e-9)
    assert found["bits_per_spike_unit_mean"] == found["bits_per_spike_mtm"]
    bwb = nlb_bits_per_spike(rates[..., spiking], counts[..., spiking])
    assert found["bits_per_spike_spiking_units"] == pytest.approx(bwb, rel=1e-12)
    assert found["bits_per_spike_spiking_units"] > nlb_bits_per_spike(rates, counts)
    null = np.broadcast_to(means, counts.shape)
    gain = sum(np.sum(r - counts * np.log(r) + gammaln(counts + 1)) * sign for r, sign in ((null, 1), (rates, -1)))
    assert found["bits_per_spike_train_null"] == pytest.approx(gain / counts.sum() / np.log(2), rel=1e-9)


def test_floors_of_conventions_hide_how_bad_a_forecast_is(problem):
    counts, rates = problem
    found = scores("spikes", counts, 1e3 * rates, np.ones(6))
    assert found["bits_per_spike_unit_mean"] < -10
    assert found["bits_per_spike_mtm"] == -5.0
    assert found["bits_per_spike_clamped"] == -1.0
    assert found["poisson_d2_clipped"] == 0.0
    assert found["poisson_d2"] < -10
