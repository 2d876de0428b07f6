"""Baselines for models with a memory of earlier samples: they read the same.

Own mean of a unit: (sum of context + A m) / (bins + A), where m = (sum of earlier + B r) / (earlier bins + B) and r is
the train mean with one pseudo-spike. Bins of the context count exp(-age / decay). A, B and the decay, all in bins, are
chosen on validation.
N windows, T context bins, H horizon bins, C units.
"""

from itertools import product

import numpy as np

from neurochorus.data_shards.earlier import Earlier
from neurochorus.pretrain.evaluation.forecaster import best, usual_rates, validation_loss
from neurochorus.pretrain.evaluation.ridge_forecasts import RidgeMix, mixed, window

OWN_PRIORS = (0.0, 10.0, 30.0, 90.0)
EARLIER_PRIORS = (40.0, 160.0)
Own = tuple[float, float, float]
"A, B and the decay as a share of the context."
OWN = tuple(product(OWN_PRIORS, EARLIER_PRIORS, RidgeMix.windows))


class EarlierMean:
    """The own mean of each unit, held over the horizon."""

    def fit(
        self, train_NTC: np.ndarray, valid_context: np.ndarray, valid_future: np.ndarray, valid_earlier: Earlier
    ) -> "EarlierMean":
        """`train_NTC`: train trials whole. Counts; returns self."""
        self.mean_C = usual_rates(train_NTC)
        loss = validation_loss("spikes", train_NTC)
        self.chosen = best(
            ({"own": own} for own in OWN if own[0]),
            lambda own: loss(valid_future, self.means(valid_context, valid_earlier, own)),
        )
        return self

    def predict(self, context: np.ndarray, earlier: Earlier) -> np.ndarray:
        """Expected counts, (N, 1, C)."""
        return self.means(context, earlier, self.chosen["own"])

    def means(self, context: np.ndarray, earlier: Earlier, own: Own) -> np.ndarray:
        inner, outer, share = own
        level_NC = (earlier.sums_NC + outer * self.mean_C) / (earlier.bins_N[:, None] + outer)
        weight_T = window(context.shape[1], share * context.shape[1])
        sums_NC = np.tensordot(context, weight_T, axes=(1, 0))
        return ((sums_NC + inner * level_NC) / (weight_T.sum() + inner))[:, None]


class EarlierRidgeMix:
    """A fitted `RidgeMix` with the own mean above in the place of that of the context alone; its shares chosen anew."""

    def __init__(self, mix: RidgeMix, own: EarlierMean):
        self.ridge, self.own = mix.ridge, own

    def fit(self, valid_context: np.ndarray, valid_future: np.ndarray, valid_earlier: Earlier) -> "EarlierRidgeMix":
        loss = validation_loss("spikes", valid_future)
        ridge = self.ridge.predict(valid_context)
        means = {own: self.own.means(valid_context, valid_earlier, own) for own in OWN}
        self.chosen = best(
            (
                {"own": own, "own_weight": weight, "ridge_share": share}
                for own, weight, share in product(OWN, RidgeMix.weights, RidgeMix.ridge_shares)
            ),
            lambda own, own_weight, ridge_share: loss(
                valid_future, mixed(self.ridge.base(), ridge, means[own], own_weight, ridge_share)
            ),
        )
        return self

    def predict(self, context: np.ndarray, earlier: Earlier) -> np.ndarray:
        """Expected counts, (N, H, C)."""
        own = self.own.means(context, earlier, self.chosen["own"])
        return mixed(
            self.ridge.base(),
            self.ridge.predict(context),
            own,
            self.chosen["own_weight"],
            self.chosen["ridge_share"],
        )
