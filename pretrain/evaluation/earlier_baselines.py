"""Baselines for models with a memory of earlier samples: they read the same.

Own mean of a unit: (sum of context + A m) / (T + A), where m = (sum of earlier + B r) / (earlier bins + B) and r is the
train mean with one pseudo-spike. A and B, in bins, are chosen on validation.
N windows, T context bins, H horizon bins, C units.
"""

from itertools import product

import numpy as np

from neurochorus.data_shards.earlier import Earlier
from neurochorus.pretrain.evaluation.forecaster import best, mean_over_bins, validation_loss, with_pseudo_spike
from neurochorus.pretrain.evaluation.ridge_forecasts import RidgeMix, mixed

OWN_PRIORS = (5.0, 10.0, 20.0, 40.0, 80.0, 160.0)
EARLIER_PRIORS = (20.0, 60.0, 120.0, 240.0)


class EarlierMean:
    """The own mean of each unit, held over the horizon."""

    def fit(
        self, train_NTC: np.ndarray, valid_context: np.ndarray, valid_future: np.ndarray, valid_earlier: Earlier
    ) -> "EarlierMean":
        """`train_NTC`: train trials whole. Counts; returns self."""
        self.mean_C = with_pseudo_spike(mean_over_bins(train_NTC), train_NTC.shape[0] * train_NTC.shape[1])
        loss = validation_loss("spikes", train_NTC)
        self.chosen = best(
            ({"own": own, "earlier_prior": prior} for own, prior in product(OWN_PRIORS, EARLIER_PRIORS)),
            lambda **settings: loss(valid_future, self.means(valid_context, valid_earlier, **settings)),
        )
        return self

    def predict(self, context: np.ndarray, earlier: Earlier) -> np.ndarray:
        """Expected counts, (N, 1, C)."""
        return self.means(context, earlier, **self.chosen)

    def means(self, context: np.ndarray, earlier: Earlier, own: float, earlier_prior: float) -> np.ndarray:
        level_NC = (earlier.sums_NC + earlier_prior * self.mean_C) / (earlier.bins_N[:, None] + earlier_prior)
        return ((context.sum(axis=1) + own * level_NC) / (context.shape[1] + own))[:, None]


class EarlierRidgeMix:
    """A fitted `RidgeMix` with the own mean above in the place of that of the context alone; its shares chosen anew."""

    def __init__(self, mix: RidgeMix, own: EarlierMean):
        self.ridge, self.own = mix.ridge, own

    def fit(self, valid_context: np.ndarray, valid_future: np.ndarray, valid_earlier: Earlier) -> "EarlierRidgeMix":
        loss = validation_loss("spikes", valid_future)
        ridge = self.ridge.predict(valid_context)
        own = {
            (prior, earlier): self.own.means(valid_context, valid_earlier, prior, earlier)
            for prior, earlier in product(OWN_PRIORS, EARLIER_PRIORS)
        }
        self.chosen = best(
            (
                {"priors": priors, "own_weight": weight, "ridge_share": share}
                for priors, weight, share in product(own, RidgeMix.weights, RidgeMix.ridge_shares)
            ),
            lambda priors, own_weight, ridge_share: loss(
                valid_future, mixed(self.ridge.base(), ridge, own[priors], own_weight, ridge_share)
            ),
        )
        return self

    def predict(self, context: np.ndarray, earlier: Earlier) -> np.ndarray:
        """Expected counts, (N, H, C)."""
        own = self.own.means(context, earlier, *self.chosen["priors"])
        return mixed(
            self.ridge.base(),
            self.ridge.predict(context),
            own,
            self.chosen["own_weight"],
            self.chosen["ridge_share"],
        )
