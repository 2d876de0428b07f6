"""Ridge regression whose penalty is chosen by cross-validation over trials: no trial is in two folds.

M bins, F features, Y targets, one eigendecomposition a fold for all penalties (principal_ridge).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.model_selection import GroupKFold

from neurochorus.pretrain.evaluation.principal_ridge import MOST_COMPONENTS, PrincipalRidge, fit_principal_ridge

PENALTIES = (1e-5, 1e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0, 3.0, 10.0, 100.0)
"Relative to the largest eigenvalue of the features' scatter matrix: alpha of scikit-learn's Ridge over that."
FOLDS = 5
LEAST_SD = 0.03
"A feature's sd counts as no less than this share of the typical one: one spike in training is no scale to divide by."


@dataclass(frozen=True)
class GroupedRidge:
    scale_F: np.ndarray
    target_means_Y: np.ndarray
    fitted: PrincipalRidge
    penalty: float
    loss: float
    "Squared error over left-out trials, in units of the targets' variance, mean over targets."

    def predict(self, features: np.ndarray) -> np.ndarray:
        """Targets (M, Y) of features (M, F)."""
        scores_MP = self.fitted.scores(features / self.scale_F)
        return self.fitted.predict(scores_MP, MOST_COMPONENTS, self.penalty) + self.target_means_Y


def feature_scale(features_MF: np.ndarray) -> np.ndarray:
    """The sd of each feature (F,), at least LEAST_SD of the root mean square of all sds; 1 where nothing varies."""
    sds_F = features_MF.std(axis=0, dtype=float)
    typical = float(np.sqrt(np.mean(sds_F**2)))
    return np.maximum(sds_F, LEAST_SD * typical) if typical > 0 else np.ones_like(sds_F)


def fit_grouped_ridge(
    features_MF: np.ndarray,
    targets_MY: np.ndarray,
    groups_M: np.ndarray,
    penalties: Sequence[float] = PENALTIES,
    folds: int = FOLDS,
) -> GroupedRidge:
    """Fit on features divided by `feature_scale`, with the penalty of least loss over folds; all targets share it.

    At most MOST_COMPONENTS (512) principal components of the features are used. `groups_M`: the trial of each bin.
    Raises ValueError for fewer than two trials and for targets that never vary.
    """
    trials = len(np.unique(groups_M))
    variance_Y = targets_MY.var(axis=0)
    if trials < 2 or not (variance_Y > 0).any():
        raise ValueError(f"ridge regression needs targets that vary over 2 or more trials, found {trials} trials")
    scale_F = feature_scale(features_MF)
    scaled_MF = features_MF / scale_F
    weight_Y = np.divide(1.0, variance_Y, out=np.zeros_like(variance_Y), where=variance_Y > 0) / (variance_Y > 0).sum()
    losses = np.zeros(len(penalties))
    for fitted_on, left_out in GroupKFold(min(folds, trials)).split(scaled_MF, groups=groups_M):
        fitted = fit_principal_ridge(scaled_MF[fitted_on], targets_MY[fitted_on])
        scores_MP = fitted.scores(scaled_MF[left_out])
        deviations_MY = targets_MY[left_out] - targets_MY[fitted_on].mean(axis=0)
        for place, penalty in enumerate(penalties):
            error_MY = deviations_MY - fitted.predict(scores_MP, MOST_COMPONENTS, penalty)
            losses[place] += (np.square(error_MY) @ weight_Y).sum()
    best = int(losses.argmin())
    return GroupedRidge(
        scale_F,
        targets_MY.mean(axis=0),
        fit_principal_ridge(scaled_MF, targets_MY),
        penalties[best],
        float(losses[best] / len(targets_MY)),
    )
