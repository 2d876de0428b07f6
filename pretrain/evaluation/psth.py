"""Peri-stimulus time histograms (PSTHs) as predictions: the mean over training trials at each bin of a trial.

N trials, T bins of a trial, C units. Only for trials that start at the same event: bin t is the same moment in all.
"""

from itertools import product
from typing import Literal

import numpy as np
from scipy.ndimage import gaussian_filter1d

from neurochorus.pretrain.evaluation.forecaster import (
    Forecaster,
    Settings,
    best,
    mean_over_bins,
    validation_loss,
    with_pseudo_spike,
)
from neurochorus.pretrain.evaluation.metrics import r2

SMOOTHING_BINS = (0.0, 1.0, 2.0, 4.0, 8.0)
PRIOR_TRIALS = (0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1e3, 1e4, 1e6)


def psth_rates(
    train_NTC: np.ndarray, valid_NTC: np.ndarray, modality: str, first_bin: int = 0
) -> tuple[np.ndarray, Settings]:
    """PSTH of the training trials (T, C), and its settings, chosen on the bins of `valid_NTC` from `first_bin` on.

    The mean over trials is smoothed in time by a Gaussian and shrunk to the unit's mean over all bins, which weighs as
    much as `prior_trials` trials. Counts get one pseudo-spike, so that no rate is 0. In trials that are not aligned
    the strongest shrinkage wins, and the PSTH is the train mean.
    """
    loss = validation_loss(modality, train_NTC[:, first_bin:])
    mean_C = mean_over_bins(train_NTC)
    if modality == "spikes":
        mean_C = with_pseudo_spike(mean_C, train_NTC.shape[0] * train_NTC.shape[1])
    psth_TC, trials = train_NTC.mean(axis=0, dtype=float), len(train_NTC)
    smooth = {sd: gaussian_filter1d(psth_TC, sd, axis=0, mode="nearest") if sd else psth_TC for sd in SMOOTHING_BINS}

    def shrunk(smoothing_bins: float, prior_trials: float) -> np.ndarray:
        return (trials * smooth[smoothing_bins] + prior_trials * mean_C) / (trials + prior_trials)

    chosen = best(
        ({"smoothing_bins": sd, "prior_trials": prior} for sd, prior in product(SMOOTHING_BINS, PRIOR_TRIALS)),
        lambda **settings: loss(valid_NTC[:, first_bin:], shrunk(**settings)[first_bin:]),
    )
    return shrunk(**chosen), chosen


class Psth(Forecaster):
    """The PSTH of the training trials over the horizon, whatever the context holds."""

    def __init__(self, modality: str) -> None:
        super().__init__()
        self.modality = modality

    def _fit(
        self, train_context: np.ndarray, train_future: np.ndarray, valid_context: np.ndarray, valid_future: np.ndarray
    ) -> None:
        train_NTC = np.concatenate((train_context, train_future), axis=1)
        valid_NTC = np.concatenate((valid_context, valid_future), axis=1)
        context = train_context.shape[1]
        rates_TC, self.chosen = psth_rates(train_NTC, valid_NTC, self.modality, context)
        self.rates_HC = rates_TC[context:]

    def _predict(self, context: np.ndarray) -> np.ndarray:
        return self.rates_HC


def condition_psth_r2(
    rates_NTC: np.ndarray,
    conditions_N: np.ndarray,
    truth_TC: dict[int, np.ndarray],
    average: Literal["uniform", "variance"] = "uniform",
) -> float:
    """R2 of predicted rates averaged by condition against true PSTHs (T, C) by condition; nlb_tools `eval_psth`.

    Conditions are stacked along time, R2 is taken for each unit over all of them and averaged over units; units whose
    true PSTH never varies are dropped. Weighted by variance, units that hardly fire do not decide. Trials of
    conditions without a true PSTH are left out.
    Raises ValueError when no trial or no unit is left.
    """
    present = [condition for condition in truth_TC if (conditions_N == condition).any()]
    if not present:
        raise ValueError("no trial has a condition with a true PSTH")
    predicted = [rates_NTC[conditions_N == condition].mean(axis=0) for condition in present]
    return r2(np.concatenate([truth_TC[condition] for condition in present]), np.concatenate(predicted), average)


def smoothed_psth(counts_NTC: np.ndarray, smoothing_bins: float) -> np.ndarray:
    """Mean over trials, smoothed in time by a Gaussian of that sd, (T, C)."""
    psth_TC = counts_NTC.mean(axis=0, dtype=float)
    return gaussian_filter1d(psth_TC, smoothing_bins, axis=0, mode="nearest") if smoothing_bins else psth_TC
