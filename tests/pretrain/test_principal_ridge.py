"""One decomposition gives the ridge regressions that the normal equations give."""

import numpy as np
import pytest

from neurochorus.pretrain.evaluation import principal_ridge
from neurochorus.pretrain.evaluation.principal_ridge import fit_principal_ridge


@pytest.fixture(params=[(40, 12), (12, 40)], ids=["more trials", "more features"])
def data(request: pytest.FixtureRequest) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Training features and targets, and new features, not centred."""
    trials, width = request.param
    rng = np.random.default_rng(0)
    return rng.normal(3.0, 1.0, (trials, width)), rng.normal(-1.0, 1.0, (trials, 3)), rng.normal(3.0, 1.0, (7, width))


def test_all_components_give_ordinary_ridge_with_a_penalty_for_each_target(data):
    features, targets, new = data
    fitted = fit_principal_ridge(features, targets)
    penalties = np.array([0.01, 0.1, 1.0])
    x, y = features - features.mean(axis=0), targets - targets.mean(axis=0)
    largest = np.linalg.norm(x, ord=2) ** 2
    expected = np.stack(
        [
            (new - features.mean(axis=0))
            @ np.linalg.solve(x.T @ x + penalty * largest * np.eye(x.shape[1]), x.T @ y[:, target])
            for target, penalty in enumerate(penalties)
        ],
        axis=1,
    )
    np.testing.assert_allclose(fitted.predict(fitted.scores(new), 512, penalties), expected, rtol=1e-8)


def test_few_components_without_penalty_give_principal_component_regression(data):
    features, targets, new = data
    fitted = fit_principal_ridge(features, targets)
    mean = features.mean(axis=0)
    axes = np.linalg.svd(features - mean, full_matrices=False)[2][:4].T
    coefficients = np.linalg.lstsq((features - mean) @ axes, targets - targets.mean(axis=0), rcond=None)[0]
    np.testing.assert_allclose(
        fitted.predict(fitted.scores(new), 4, 0.0), (new - mean) @ axes @ coefficients, rtol=1e-7
    )


def test_the_leading_components_are_kept_when_there_are_too_many(data, monkeypatch: pytest.MonkeyPatch):
    features, targets, new = data
    whole = fit_principal_ridge(features, targets)
    monkeypatch.setattr(principal_ridge, "MOST_COMPONENTS", 5)
    short = fit_principal_ridge(features, targets)
    assert len(short.eigenvalues_P) == 5
    expected = whole.predict(whole.scores(new), 5, 0.1)
    np.testing.assert_allclose(short.predict(short.scores(new), 512, 0.1), expected, rtol=1e-8)


def test_features_that_never_vary_predict_no_deviation():
    fitted = fit_principal_ridge(np.ones((6, 3)), np.arange(12.0).reshape(6, 2))
    np.testing.assert_array_equal(fitted.predict(fitted.scores(np.zeros((4, 3))), 8, 0.1), np.zeros((4, 2)))
