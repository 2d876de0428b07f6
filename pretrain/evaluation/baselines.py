"""The baselines of every results table, and the simplest of them: means.

A learned model must clear the strongest of them on the same split and metric. Widths in time are fractions
of the context, so that the same candidates serve 30 bins of 10 ms and 200 of 20 ms.
"""

from itertools import product

import numpy as np

from neurochorus.pretrain.evaluation.forecaster import (
    MODALITIES,
    Forecaster,
    best,
    mean_over_bins,
    usual_values,
    validation_loss,
)
from neurochorus.pretrain.evaluation.psth import Psth
from neurochorus.pretrain.evaluation.ridge_forecasts import Ridge, RidgeAutoregression, RidgeMix


class TrainMean(Forecaster):
    """Each unit's mean over all bins of the training trials, the same for every trial and lead."""

    def __init__(self, modality: str) -> None:
        super().__init__()
        self.modality = _known(modality)

    def _fit(
        self, train_context: np.ndarray, train_future: np.ndarray, valid_context: np.ndarray, valid_future: np.ndarray
    ) -> None:
        self.means_C = mean_over_bins(train_context, train_future)

    def _predict(self, context: np.ndarray) -> np.ndarray:
        return self.means_C


class Persistence(Forecaster):
    """The last value of the context, held over the horizon. For continuous signals: one count is no rate."""

    modality = "continuous"

    def _fit(
        self, train_context: np.ndarray, train_future: np.ndarray, valid_context: np.ndarray, valid_future: np.ndarray
    ) -> None:
        pass

    def _predict(self, context: np.ndarray) -> np.ndarray:
        return context[:, -1:]


class TrailingMean(Forecaster):
    """Mean of each unit's last bins shrunk to its training mean: (sum + A mean) / (bins + A).

    For spikes this is the posterior mean of a rate under a gamma prior worth A bins, around a training mean
    with one pseudo-spike. How many last bins, and A, are chosen on validation.
    """

    windows = (1 / 6, 1 / 3, 2 / 3, 1.0)
    priors_bins = (0.3, 1.0, 3.0, 10.0, 15.0, 20.0, 30.0, 40.0, 60.0, 80.0, 100.0, 150.0, 200.0, 300.0, 1000.0)

    def __init__(self, modality: str) -> None:
        super().__init__()
        self.modality = _known(modality)

    def _fit(
        self, train_context: np.ndarray, train_future: np.ndarray, valid_context: np.ndarray, valid_future: np.ndarray
    ) -> None:
        loss = validation_loss(self.modality, train_future)
        self.means_C = usual_values(self.modality, train_context, train_future)
        last_bins = sorted({max(1, round(window * train_context.shape[1])) for window in self.windows})
        self.chosen = best(
            ({"last_bins": bins, "prior_bins": prior} for bins, prior in product(last_bins, self.priors_bins)),
            lambda **settings: loss(valid_future, self._means(valid_context, **settings)),
        )

    def _predict(self, context: np.ndarray) -> np.ndarray:
        return self._means(context, **self.chosen)

    def _means(self, context: np.ndarray, last_bins: int, prior_bins: float) -> np.ndarray:
        last_sum = context[:, -last_bins:].sum(axis=1, keepdims=True)
        return (last_sum + prior_bins * self.means_C) / (last_bins + prior_bins)


def all_baselines(modality: str, aligned: bool = False) -> dict[str, Forecaster]:
    """Fresh baselines of a modality by name, weakest first; the PSTH among them for trials that are aligned.

    Raises ValueError for an unknown modality.
    """
    psth: dict[str, Forecaster] = {"psth": Psth(modality)} if aligned else {}
    if _known(modality) == "spikes":
        return {
            "train mean": TrainMean("spikes"),
            **psth,
            "trailing mean": TrailingMean("spikes"),
            "ridge": Ridge(),
            "ridge mix": RidgeMix(),
        }
    return {
        "train mean": TrainMean("continuous"),
        **psth,
        "persistence": Persistence(),
        "trailing mean": TrailingMean("continuous"),
        "ridge AR": RidgeAutoregression(),
    }


def _known(modality: str) -> str:
    if modality not in MODALITIES:
        raise ValueError(f"modality is {modality!r}, expected one of: {', '.join(MODALITIES)}")
    return modality
