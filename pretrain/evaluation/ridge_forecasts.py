"""Linear forecasts: ridge regression of the horizon on principal components of the context.

Features, targets and candidates were picked on resplits of the training and validation trials of
steinmetz2019 and on simulated counts, not on its test trials.
"""

from itertools import product

import numpy as np

from neurochorus.pretrain.evaluation.forecaster import (
    Forecaster,
    best,
    mean_over_bins,
    validation_loss,
    with_pseudo_spike,
)
from neurochorus.pretrain.evaluation.principal_ridge import fit_principal_ridge

COMPONENTS = (8, 16, 32, 512)
PENALTIES = (0.01, 0.03, 0.1, 0.3)
LEAST_SHARE = 0.1
"""A ridge forecast stays above this share of the unit's own mean rate: a spike where the rate is next to 0
costs more bits than so low a rate ever saves."""


class Ridge(Forecaster):
    """Counts of the horizon regressed on principal components of the recent context.

    Features: square roots (which even out Poisson noise) of counts in an exponential window. Targets: mean
    counts over the whole horizon, or over each of its halves. The deviations they predict are added to the
    unit's base rate, its means over the horizon and over all bins taken half and half. The penalty of a unit
    is inverse to its rate: where rates vary by the same factor, their variance goes with the rate squared but
    the noise of counts only with the rate. Window, halves, components and penalty are chosen on validation.
    """

    modality = "spikes"
    windows = (1 / 6, 1 / 3)
    parts = (1, 2)

    def _fit(
        self, train_context: np.ndarray, train_future: np.ndarray, valid_context: np.ndarray, valid_future: np.ndarray
    ) -> None:
        loss = validation_loss(self.modality, train_future)
        decays = [window * train_context.shape[1] for window in self.windows]
        parts = [count for count in self.parts if count <= self.horizon_bins]
        features = {decay: _recent_activity(train_context, decay) for decay in decays}
        self.base_rates = {count: _base_rates(train_context, train_future, count) for count in parts}
        self.fitted = {
            (decay, count): fit_principal_ridge(
                features[decay], _part_means(train_future, count).reshape(len(train_future), -1)
            )
            for decay, count in product(decays, parts)
        }
        self.chosen = best(
            (
                {"decay_bins": decay, "parts": count, "components": components, "penalty": penalty}
                for decay, count, components, penalty in product(decays, parts, COMPONENTS, PENALTIES)
            ),
            lambda **settings: loss(valid_future, self._rates(valid_context, **settings)),
        )

    def _predict(self, context: np.ndarray) -> np.ndarray:
        return self._rates(context, **self.chosen)

    def base(self) -> np.ndarray:
        """Rates before looking at the context, for the chosen settings; broadcasts to (horizon bins, units)."""
        return self._over_horizon(self.base_rates[self.chosen["parts"]])

    def _rates(self, context: np.ndarray, decay_bins: float, parts: int, components: int, penalty: float) -> np.ndarray:
        fitted, base = self.fitted[decay_bins, parts], self.base_rates[parts]
        unit_penalties = penalty * (base.mean() / base).reshape(-1)
        scores = fitted.scores(_recent_activity(context, decay_bins))
        deviations = fitted.predict(scores, components, unit_penalties).reshape(len(context), *base.shape)
        return self._over_horizon(np.maximum(base + deviations, LEAST_SHARE * base))

    def _over_horizon(self, rates: np.ndarray) -> np.ndarray:
        """Hold the rate of each part over its bins; a single part stays one bin, which broadcasts."""
        parts = rates.shape[-2]
        lengths = [len(part) for part in np.array_split(np.arange(self.horizon_bins), parts)]
        return rates if parts == 1 else np.repeat(rates, lengths, axis=-2)


class RidgeMix(Forecaster):
    """`Ridge` mixed with each unit's own recent mean count, which carries what no shared component does.

    (1 - w) (base + s (ridge - base)) + w own: own is an exponentially weighted mean of the unit's context,
    base the ridge's rates before it looks at the context. s < 1 takes back what the ridge read from the
    units' own noise when w is large. w, s and the window are chosen on validation, after the ridge's settings.
    """

    modality = "spikes"
    windows = (1 / 6, 1 / 3, 2 / 3, 10.0)
    weights = (0.0, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
    ridge_shares = (1.0, 0.75, 0.5, 0.25, 0.0)

    def _fit(
        self, train_context: np.ndarray, train_future: np.ndarray, valid_context: np.ndarray, valid_future: np.ndarray
    ) -> None:
        loss = validation_loss(self.modality, train_future)
        self.ridge = Ridge()
        self.ridge.fit(train_context, train_future, valid_context, valid_future)
        base, ridge_rates = self.ridge.base(), self.ridge._predict(valid_context)
        decays = [window * train_context.shape[1] for window in self.windows]
        own_rates = {decay: _own_rates(valid_context, decay) for decay in decays}
        self.mix = best(
            (
                {"own_decay_bins": decay, "own_weight": weight, "ridge_share": share}
                for decay, weight, share in product(decays, self.weights, self.ridge_shares)
            ),
            lambda own_decay_bins, own_weight, ridge_share: loss(
                valid_future, mixed(base, ridge_rates, own_rates[own_decay_bins], own_weight, ridge_share)
            ),
        )
        self.chosen = {**self.ridge.chosen, **self.mix}

    def _predict(self, context: np.ndarray) -> np.ndarray:
        own_rates = _own_rates(context, self.mix["own_decay_bins"])
        ridge_rates = self.ridge._predict(context)
        return mixed(self.ridge.base(), ridge_rates, own_rates, self.mix["own_weight"], self.mix["ridge_share"])


class RidgeAutoregression(Forecaster):
    """Each bin of the horizon regressed on principal components of the last bins of all units.

    For continuous signals, standardised by the training trials. How many last bins, components and the
    penalty are chosen on validation. With one bin and little penalty this is linear dynamics by least squares.
    """

    modality = "continuous"
    last_bins = (1, 2, 4, 8)
    components = (4, *COMPONENTS)
    penalties = (1e-4, 1e-3, *PENALTIES)

    def _fit(
        self, train_context: np.ndarray, train_future: np.ndarray, valid_context: np.ndarray, valid_future: np.ndarray
    ) -> None:
        loss = validation_loss(self.modality, train_future)
        deviation_C = train_context.std(axis=(0, 1))
        self.scale_C = np.where(deviation_C > 0, deviation_C, 1.0)
        self.means_HC = train_future.mean(axis=0)
        targets = train_future.reshape(len(train_future), -1)
        self.fitted = {
            bins: fit_principal_ridge(self._features(train_context, bins), targets)
            for bins in sorted({min(bins, train_context.shape[1]) for bins in self.last_bins})
        }
        self.chosen = best(
            (
                {"last_bins": bins, "components": components, "penalty": penalty}
                for bins, components, penalty in product(self.fitted, self.components, self.penalties)
            ),
            lambda **settings: loss(valid_future, self._signal(valid_context, **settings)),
        )

    def _predict(self, context: np.ndarray) -> np.ndarray:
        return self._signal(context, **self.chosen)

    def _signal(self, context: np.ndarray, last_bins: int, components: int, penalty: float) -> np.ndarray:
        fitted = self.fitted[last_bins]
        deviations = fitted.predict(fitted.scores(self._features(context, last_bins)), components, penalty)
        return self.means_HC + deviations.reshape(-1, *self.means_HC.shape)

    def _features(self, context: np.ndarray, last_bins: int) -> np.ndarray:
        return (context[:, -last_bins:] / self.scale_C).reshape(len(context), -1)


def _recent_activity(context: np.ndarray, decay_bins: float) -> np.ndarray:
    """Square roots of exponentially windowed counts, (trials, units)."""
    return np.sqrt(np.tensordot(window(context.shape[1], decay_bins), context, axes=(0, 1)))


def window(bins: int, decay_bins: float) -> np.ndarray:
    """exp(-age / decay) of each bin of the context, oldest first; the last bin has weight 1."""
    return np.exp(-np.arange(bins)[::-1] / decay_bins)


def _own_rates(context: np.ndarray, decay_bins: float) -> np.ndarray:
    """Exponentially weighted mean count of each unit, (trials, 1, units)."""
    weight_T = window(context.shape[1], decay_bins)
    return np.tensordot(context, weight_T / weight_T.sum(), axes=(1, 0))[:, None]


def mixed(base: np.ndarray, ridge: np.ndarray, own: np.ndarray, own_weight: float, ridge_share: float) -> np.ndarray:
    """The rates of `RidgeMix`; arrays that broadcast to (trials, horizon bins, units)."""
    return (1 - own_weight) * (base + ridge_share * (ridge - base)) + own_weight * own


def _part_means(future: np.ndarray, parts: int) -> np.ndarray:
    """Means over stretches of the horizon, as equal as can be, (trials, parts, units)."""
    return np.stack([part.mean(axis=1) for part in np.array_split(future, parts, axis=1)], axis=1)


def _base_rates(context: np.ndarray, future: np.ndarray, parts: int) -> np.ndarray:
    """Expected count per bin before looking at the context, (parts, units), above 0 everywhere.

    The mean over all bins varies less from sample to sample, the mean over the part of the horizon knows the
    time in the trial: half of each. One pseudo-spike at the session's mean rate stands in for a prior.
    """
    rates = (_part_means(future, parts).mean(axis=0) + mean_over_bins(context, future)) / 2
    return with_pseudo_spike(rates, len(context) * (context.shape[1] + future.shape[1]))
