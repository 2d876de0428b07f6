"""Ridge regression whose penalty is chosen by cross-validation over trials: no trial is in two folds.

M bins, F features, Y targets, one eigendecomposition a fold for all penalties (principal_ridge).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.model_selection import GroupKFold

from neurochorus.pretrain.evaluation.principal_ridge import MOST_COMPONENTS, PrincipalRidge, fit_principal_ridge

PENALTIES = (0.0, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0)
"Relative to the largest eigenvalue of the features' scatter matrix: alpha of scikit-learn's Ridge over that."
FOLDS = 5


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


def fit_grouped_ridge(
    features_MF: np.ndarray,
    targets_MY: np.ndarray,
    groups_M: np.ndarray,
    penalties: Sequence[float] = PENALTIES,
    folds: int = FOLDS,
) -> GroupedRidge:
    """Fit on features divided by their sd, with the penalty of least loss over folds; all targets share it.

    At most MOST_COMPONENTS (512) principal components of the features are used. `groups_M`: the trial of each bin.
    Raises ValueError for fewer than two trials and for targets that never vary.
    """
    trials = len(np.unique(groups_M))
    variance_Y = targets_MY.var(axis=0)
    if trials < 2 or not (variance_Y > 0).any():
        raise ValueError(f"ridge regression needs targets that vary over 2 or more trials, found {trials} trials")
    sds_F = features_MF.std(axis=0, dtype=float)
    scale_F = np.where(sds_F > 1e-12, sds_F, 1.0)
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
