"""Decoders of covariates and of labels of trials from activity, fitted on some trials and scored on others.

N trials (windows), T bins, F features, K columns of a covariate. Penalties are chosen by cross-validation inside the
training trials, in folds that split no trial; the trials that are scored take no part in it: nested cross-validation
whose outer folds are the data set's splits, which the model was held to as well.
"""

import warnings
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from sklearn.model_selection import GridSearchCV, StratifiedGroupKFold
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from neurochorus.pretrain.evaluation.metrics import r2
from neurochorus.pretrain.evaluation.suite.grouped_ridge import GroupedRidge, fit_grouped_ridge
from neurochorus.pretrain.evaluation.suite.tables import Undefined

INVERSE_PENALTIES = (1e-3, 1e-2, 0.1, 1.0, 10.0)
FOLDS = 5
Average = Literal["uniform", "variance"]


class Fitted(Protocol):
    @property
    def loss(self) -> float:
        """Left-out loss of the chosen penalty; less is better. Comparable between features, for the same trials."""
        ...

    def score(self, features_NTF: np.ndarray, targets: np.ndarray) -> float: ...


@dataclass(frozen=True)
class CovariateDecoder:
    """Ridge regression of each bin's covariate (N, T, K) on that bin's features; scored by R2 over all columns."""

    ridge: GroupedRidge
    average: Average = "uniform"

    @property
    def loss(self) -> float:
        return self.ridge.loss

    @classmethod
    def fit(
        cls,
        features_NTF: np.ndarray,
        targets_NTK: np.ndarray,
        groups_N: np.ndarray,
        average: Average = "uniform",
    ) -> "CovariateDecoder":
        """Raises Undefined without two trials in which the covariate is known and varies."""
        features, targets, known = _known_bins(features_NTF, targets_NTK)
        groups_M = np.repeat(groups_N, targets_NTK.shape[1])[known]
        try:
            return cls(fit_grouped_ridge(features, targets, groups_M, folds=FOLDS), average)
        except ValueError as error:
            raise Undefined(str(error)) from None

    def score(self, features_NTF: np.ndarray, targets: np.ndarray) -> float:
        features, known_targets, _ = _known_bins(features_NTF, targets)
        if not len(known_targets) or not (known_targets.var(axis=0) > 0).any():
            raise Undefined("the covariate is not known or does not vary in the evaluated bins")
        return r2(known_targets, self.ridge.predict(features), self.average)


@dataclass(frozen=True)
class LabelDecoder:
    """Logistic regression of a trial's label (N,) on its features, averaged over bins; scored by balanced accuracy."""

    model: Pipeline
    loss: float

    @classmethod
    def fit(cls, features_NTF: np.ndarray, targets_N: np.ndarray, groups_N: np.ndarray) -> "LabelDecoder":
        """Raises Undefined unless two labels have two trials (`groups_N`) each."""
        trials = np.unique(np.stack([targets_N.astype(str), groups_N.astype(str)]), axis=1)[0]
        _, sizes = np.unique(trials, return_counts=True)
        folds = min(FOLDS, *sizes.tolist()) if len(sizes) > 1 else 0
        if folds < 2:
            raise Undefined("fewer than two labels with two training trials each")
        regression = LogisticRegression(class_weight="balanced", max_iter=500)
        search = GridSearchCV(
            make_pipeline(StandardScaler(), PCA(svd_solver="full"), regression),  # the same, in fewer dimensions
            {"logisticregression__C": list(INVERSE_PENALTIES)},
            scoring="balanced_accuracy",
            cv=StratifiedGroupKFold(folds, shuffle=True, random_state=0),
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # folds without a rare label, and fits that stop at max_iter
            search.fit(features_NTF.mean(axis=1), targets_N, groups=groups_N)
        if not np.isfinite(search.best_score_):
            raise Undefined("a fold of the training trials has one label alone")
        return cls(search.best_estimator_, 1 - float(search.best_score_))

    def score(self, features_NTF: np.ndarray, targets: np.ndarray) -> float:
        known = np.isin(targets, self.model.classes_)
        if len(np.unique(targets[known])) < 2:
            raise Undefined("the evaluated trials have fewer than two labels")
        predicted = self.model.predict(features_NTF[known].mean(axis=1))
        return float(balanced_accuracy_score(targets[known], predicted))


def _known_bins(features_NTF: np.ndarray, targets_NTK: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features and targets of the bins in which every column is known, and which these are (N * T,)."""
    targets = targets_NTK.reshape(-1, targets_NTK.shape[-1]).astype(float)
    known = np.asarray(np.isfinite(targets).all(axis=1))
    return features_NTF.reshape(-1, features_NTF.shape[-1])[known], targets[known], known
