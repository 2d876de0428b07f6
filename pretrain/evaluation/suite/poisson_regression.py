"""Poisson regression of many units on the same features, the penalty chosen by cross-validation over trials.

M bins, F features, C units.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize
from sklearn.model_selection import GroupKFold

PENALTIES = (1.0, 0.1, 1e-2, 1e-3, 1e-4)
FOLDS = 3
LARGEST_LOG_RATE = 7.0
"exp(7) = 1,097 counts a bin: far above any neuron."


@dataclass(frozen=True)
class PoissonRegression:
    """log rate = (features - means) / sds @ weights + bias."""

    means_F: np.ndarray
    sds_F: np.ndarray
    weights_FC: np.ndarray
    bias_C: np.ndarray
    penalty: float

    def rates(self, features: np.ndarray) -> np.ndarray:
        """Expected counts (..., C) of features (..., F)."""
        log_rate = (features - self.means_F) / self.sds_F @ self.weights_FC + self.bias_C
        return np.exp(np.minimum(log_rate, LARGEST_LOG_RATE))


def fit_poisson_regression(
    features_MF: np.ndarray,
    counts_MC: np.ndarray,
    penalty: float,
    pseudo_spikes: float = 1.0,
    start: PoissonRegression | None = None,
) -> PoissonRegression:
    """Minimise the mean negative log-likelihood + penalty / 2 |weights|^2 of each unit, features standardised.

    As scikit-learn's PoissonRegressor(alpha=penalty), whose deviance is halved. `pseudo_spikes` spikes at the mean
    rate of all units are added to the bias, so that a silent unit keeps a rate; 0 for none. L-BFGS over all units
    together, each coefficient scaled by its curvature at constant rates.
    Raises ValueError for counts without any spike.
    """
    bins, units = counts_MC.shape
    mean_C = counts_MC.mean(axis=0, dtype=float)
    if not mean_C.any():
        raise ValueError(f"no spikes in {bins} bins of {units} units: there is no rate to learn")
    means_F, sds_F = features_MF.mean(axis=0, dtype=float), features_MF.std(axis=0, dtype=float)
    sds_F = np.where(sds_F > 1e-12, sds_F, 1.0)
    standard_MF = (features_MF - means_F) / sds_F
    width, overall = standard_MF.shape[1], mean_C.mean()
    prior = pseudo_spikes / bins
    base_C = (mean_C + prior) / (1 + prior / overall) if pseudo_spikes else np.maximum(mean_C, 1e-9)
    scale_1C = 1 / np.sqrt(base_C + penalty)
    drive_FC = standard_MF.T @ counts_MC / bins

    def parts(flat: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        table = flat.reshape(width + 1, units) * scale_1C
        return table[:width], table[width] + np.log(base_C)

    def loss(flat: np.ndarray) -> tuple[float, np.ndarray]:
        weights_FC, bias_C = parts(flat)
        rates_MC = np.exp(np.minimum(standard_MF @ weights_FC + bias_C, LARGEST_LOG_RATE))
        level_C, pseudo_C = rates_MC.mean(axis=0), prior * np.exp(bias_C) / overall
        value = level_C.sum() - (weights_FC * drive_FC).sum() - (mean_C * bias_C).sum()
        value += 0.5 * penalty * np.square(weights_FC).sum() + (pseudo_C - prior * bias_C).sum()
        slope_FC = standard_MF.T @ rates_MC / bins - drive_FC + penalty * weights_FC
        slope_C = level_C - mean_C + pseudo_C - prior
        return float(value), (np.concatenate((slope_FC, slope_C[None])) * scale_1C).ravel()

    first = np.zeros((width + 1, units))
    if start is not None:
        first = np.concatenate((start.weights_FC, (start.bias_C - np.log(base_C))[None])) / scale_1C
    found = minimize(loss, first.ravel(), jac=True, method="L-BFGS-B", options={"maxiter": 300, "gtol": 1e-6})
    weights_FC, bias_C = parts(found.x)
    return PoissonRegression(means_F, sds_F, weights_FC, bias_C, penalty)


def cross_validated_poisson_regression(
    features_MF: np.ndarray,
    counts_MC: np.ndarray,
    groups_M: np.ndarray,
    penalties: Sequence[float] = PENALTIES,
    folds: int = FOLDS,
) -> PoissonRegression:
    """Fit with the penalty of least Poisson loss over folds in which no trial is split; all units share it.

    `groups_M`: the trial of each bin. Raises ValueError for fewer than two trials.
    """
    trials = len(np.unique(groups_M))
    if trials < 2:
        raise ValueError(f"cross-validation over trials needs 2 or more, found {trials}")
    losses = np.zeros(len(penalties))
    for fitted_on, left_out in GroupKFold(min(folds, trials)).split(features_MF, groups=groups_M):
        if not counts_MC[fitted_on].any():
            continue
        model = None
        for place, penalty in enumerate(sorted(penalties, reverse=True)):
            model = fit_poisson_regression(features_MF[fitted_on], counts_MC[fitted_on], penalty, start=model)
            rates_MC = model.rates(features_MF[left_out])
            losses[place] += (rates_MC - counts_MC[left_out] * np.log(rates_MC)).sum()
    chosen = sorted(penalties, reverse=True)[int(losses.argmin())]
    return fit_poisson_regression(features_MF, counts_MC, chosen)
