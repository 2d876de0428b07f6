"""Ridge regression from the leading principal components of the features, for many penalties at once.

One eigendecomposition, of trials x trials or features x features, whichever is smaller, serves every number
of components and every penalty: with components z_p = (x - mean) v_p of eigenvalue s_p (not divided by the
number of trials), the coefficient of target y is z_p . y / (s_p + s_1 * penalty).
"""

from dataclasses import dataclass

import numpy as np
from scipy.linalg import eigh

MOST_COMPONENTS = 512


@dataclass(frozen=True)
class PrincipalRidge:
    """A fitted family of ridge regressions of Y targets on F features with up to P components."""

    feature_means_F: np.ndarray
    axes_FP: np.ndarray
    eigenvalues_P: np.ndarray
    cross_products_PY: np.ndarray

    def scores(self, features_NF: np.ndarray) -> np.ndarray:
        """Principal components of each row of features, (N, P), largest first."""
        return (features_NF - self.feature_means_F) @ self.axes_FP

    def coefficients(self, components: int, penalty: float | np.ndarray) -> np.ndarray:
        """Coefficients (components, Y); the penalty, one or (Y,), is relative to the largest eigenvalue.

        More components than there are means all of them.
        """
        eigenvalues_P1 = self.eigenvalues_P[:components, None]
        return self.cross_products_PY[:components] / (eigenvalues_P1 + self.eigenvalues_P[0] * penalty)

    def predict(self, scores_NP: np.ndarray, components: int, penalty: float | np.ndarray) -> np.ndarray:
        """Targets predicted from `scores`, as deviations from the training mean, (N, Y)."""
        return scores_NP[:, :components] @ self.coefficients(components, penalty)


def fit_principal_ridge(features_NF: np.ndarray, targets_NY: np.ndarray) -> PrincipalRidge:
    """Fit on N trials. Features that never vary give no components, so every prediction is the mean."""
    means_F = features_NF.mean(axis=0)
    centred_NF = features_NF - means_F
    trials, width = centred_NF.shape
    wide = trials < width
    gram = centred_NF @ centred_NF.T if wide else centred_NF.T @ centred_NF
    first = max(0, len(gram) - MOST_COMPONENTS)
    eigenvalues, vectors = eigh(gram, subset_by_index=(first, len(gram) - 1))
    eigenvalues, vectors = eigenvalues[::-1], vectors[:, ::-1]
    kept = eigenvalues > 1e-8 * max(eigenvalues[0], np.finfo(float).tiny)
    eigenvalues, vectors = eigenvalues[kept], vectors[:, kept]
    axes_FP = centred_NF.T @ vectors / np.sqrt(eigenvalues) if wide else vectors
    cross_products_PY = (centred_NF @ axes_FP).T @ (targets_NY - targets_NY.mean(axis=0))
    if not len(eigenvalues):
        eigenvalues, axes_FP, cross_products_PY = np.ones(1), np.zeros((width, 1)), np.zeros((1, targets_NY.shape[1]))
    return PrincipalRidge(means_F, axes_FP, eigenvalues, cross_products_PY)
