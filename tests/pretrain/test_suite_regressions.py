"""Poisson and ridge regression of the suite against scikit-learn, and against the truth that made the data."""

import numpy as np
import pytest
from sklearn.linear_model import PoissonRegressor, Ridge
from sklearn.model_selection import GridSearchCV, GroupKFold

from neurochorus.pretrain.evaluation.metrics import bits_per_spike, r2
from neurochorus.pretrain.evaluation.suite.grouped_ridge import fit_grouped_ridge
from neurochorus.pretrain.evaluation.suite.poisson_regression import (
    cross_validated_poisson_regression,
    fit_poisson_regression,
)
from neurochorus.pretrain.evaluation.suite.smoothing import exponential_smoothing

TRIALS, BINS = 40, 20
GROUPS = np.repeat(np.arange(TRIALS), BINS)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(3)


def poisson_problem(rng: np.random.Generator, units: int = 6) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    features = rng.normal(size=(TRIALS * BINS, 3)) * [1.0, 5.0, 0.1]
    rates = np.exp(features / [1.0, 5.0, 0.1] @ rng.normal(0, 0.5, size=(3, units)) - 1.0)
    return features, rng.poisson(rates), rates


@pytest.mark.parametrize("penalty", [1e-3, 0.3])
def test_poisson_regression_is_scikit_learns(rng, penalty: float):
    features, counts, _ = poisson_problem(rng)
    fitted = fit_poisson_regression(features, counts, penalty, pseudo_spikes=0)
    standard = (features - features.mean(axis=0)) / features.std(axis=0)
    for unit in range(counts.shape[1]):
        theirs = PoissonRegressor(alpha=penalty, tol=1e-9, max_iter=1000).fit(standard, counts[:, unit])
        np.testing.assert_allclose(fitted.rates(features)[:, unit], theirs.predict(standard), rtol=2e-3)


def test_poisson_regression_on_the_true_latents_reaches_the_score_of_the_true_rates(rng):
    features, counts, rates = poisson_problem(rng)
    order = rng.permutation(TRIALS * BINS).reshape(TRIALS, BINS)  # other bins in every trial
    features, counts, rates = features[order.ravel()], counts[order.ravel()], rates[order.ravel()]
    test = GROUPS >= 25
    fitted = cross_validated_poisson_regression(features[~test], counts[~test], GROUPS[~test])
    reached, possible = (bits_per_spike(counts[test], made) for made in (fitted.rates(features[test]), rates[test]))
    assert possible > 0.2
    assert possible - 0.05 < reached < possible + 0.01
    shuffled = cross_validated_poisson_regression(rng.permutation(features[~test]), counts[~test], GROUPS[~test])
    assert shuffled.penalty >= 0.1
    assert bits_per_spike(counts[test], shuffled.rates(features[test])) <= 0.0


def test_a_silent_unit_keeps_a_rate_and_silence_is_refused(rng):
    features, counts, _ = poisson_problem(rng)
    counts[:, 0] = 0
    rates = fit_poisson_regression(features, counts, 0.01).rates(features)
    assert 0 < rates[:, 0].mean() < 2 / (TRIALS * BINS)
    with pytest.raises(ValueError, match="no spikes in 800 bins of 6 units"):
        fit_poisson_regression(features, 0 * counts, 0.01)
    with pytest.raises(ValueError, match="needs 2 or more, found 1"):
        cross_validated_poisson_regression(features, counts, 0 * GROUPS)


def test_grouped_ridge_is_scikit_learns_grid_search(rng):
    features = rng.normal(size=(TRIALS * BINS, 5)) @ rng.normal(size=(5, 5))
    drift = np.repeat(rng.normal(size=TRIALS), BINS)[:, None]
    targets = features @ rng.normal(size=(5, 1)) + 3 * drift + rng.normal(size=(TRIALS * BINS, 1))
    penalties = [1e-4, 1e-2, 0.1, 1.0, 10.0]
    fitted = fit_grouped_ridge(features, targets, GROUPS, penalties)
    scaled = features / features.std(axis=0)

    def alpha(penalty: float, values: np.ndarray) -> float:
        centred = values - values.mean(axis=0)
        return penalty * float(np.linalg.eigvalsh(centred.T @ centred)[-1])

    direct = Ridge(alpha=alpha(fitted.penalty, scaled)).fit(scaled, targets)
    np.testing.assert_allclose(fitted.predict(features), direct.predict(scaled).reshape(-1, 1), rtol=1e-6, atol=1e-8)
    grid = {"alpha": [alpha(penalty, scaled) * 4 / 5 for penalty in penalties]}  # folds hold four fifths of the trials
    search = GridSearchCV(Ridge(), grid, scoring="neg_mean_squared_error", cv=GroupKFold(5))
    search.fit(scaled, targets, groups=GROUPS)
    assert penalties[search.best_index_] == fitted.penalty


def test_no_trial_is_in_two_folds(rng):
    """Features that name the trial predict its own offset perfectly, and that of no other trial."""
    features = np.eye(TRIALS)[GROUPS] + 0.01 * rng.normal(size=(TRIALS * BINS, TRIALS))
    targets = np.repeat(rng.normal(size=TRIALS), BINS)[:, None]
    assert fit_grouped_ridge(features, targets, GROUPS).loss > 0.9
    assert fit_grouped_ridge(features, targets, np.arange(TRIALS * BINS)).loss < 0.1


def test_ridge_of_a_known_linear_truth_has_the_expected_r2(rng):
    """y = x w + e with Var(x w) = 4 and Var(e) = 1: R2 is 4 / 5."""
    weights = np.array([[1.2], [1.6]])
    features = rng.normal(size=(4000, 2))
    targets = features @ weights + rng.normal(size=(4000, 1))
    groups = np.repeat(np.arange(40), 100)
    fitted = fit_grouped_ridge(features[:2000], targets[:2000], groups[:2000])
    assert r2(targets[2000:], fitted.predict(features[2000:])) == pytest.approx(0.8, abs=0.02)
    assert fitted.loss == pytest.approx(0.2, abs=0.02)
    shuffled = fit_grouped_ridge(rng.permutation(features[:2000]), targets[:2000], groups[:2000])
    assert r2(targets[2000:], shuffled.predict(features[2000:])) < 0.005
    with pytest.raises(ValueError, match="targets that vary over 2 or more trials"):
        fit_grouped_ridge(features, 0 * targets, groups)


def test_smoothing_is_a_weighted_mean_of_the_past(rng):
    counts = rng.poisson(1.0, size=(2, 6, 3))
    weights = np.exp(-np.arange(6) / 2.0)
    past = [(counts[:, : t + 1] * weights[: t + 1][::-1, None]).sum(axis=1) / weights[: t + 1].sum() for t in range(6)]
    np.testing.assert_allclose(exponential_smoothing(counts, 2.0), np.stack(past, axis=1), rtol=1e-12)
    both = np.exp(-np.abs(np.arange(6)[:, None] - np.arange(6)) / 2.0)
    expected = np.einsum("ts,nsc->ntc", both / both.sum(axis=1, keepdims=True), counts)
    np.testing.assert_allclose(exponential_smoothing(counts, 2.0, causal=False), expected, rtol=1e-12)
    np.testing.assert_array_equal(exponential_smoothing(counts, 0.0), counts)
