"""What the baselines share: a forecasting problem, the loss that chooses settings, and the checks.

A problem gives the last bins of a window, `context` (trials, context bins, units), and asks for the expected
signal of the bins that follow, (trials, horizon bins, units): expected counts per bin for spikes, values for
a continuous signal. One session at a time: nothing is shared between animals.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

MODALITIES = ("spikes", "continuous")
Loss = Callable[[np.ndarray, np.ndarray], float]
Settings = dict[str, Any]


class Forecaster(ABC):
    """A forecast without a network: parameters from training trials, settings from validation trials only."""

    modality: str
    chosen: Settings
    """The settings picked on validation, for the report; empty where there is nothing to pick."""

    def __init__(self) -> None:
        self.chosen = {}
        self._fitted_shape: tuple[int, int] | None = None

    def fit(
        self, train_context: np.ndarray, train_future: np.ndarray, valid_context: np.ndarray, valid_future: np.ndarray
    ) -> "Forecaster":
        """Fit on one session and return self.

        Raises ValueError for arrays that do not fit together, a split without trials, values that are missing
        or (for spikes) negative, and for spikes a training split without any.
        """
        named = {
            "train_context": train_context,
            "train_future": train_future,
            "valid_context": valid_context,
            "valid_future": valid_future,
        }
        for name, values in named.items():
            _check_values(name, values, self.modality)
        _check_shapes({name: values.shape for name, values in named.items()})
        if self.modality == "spikes" and not (train_context.any() or train_future.any()):
            raise ValueError(
                f"the {len(train_context)} training trials hold no spikes: there is no rate to learn from them"
            )
        self.horizon_bins = train_future.shape[1]
        self._fitted_shape = train_context.shape[1:]
        self._fit(*(np.asarray(values, dtype=float) for values in named.values()))
        return self

    def predict(self, context: np.ndarray) -> np.ndarray:
        """Expected signal after each context, (trials, horizon bins, units).

        Raises ValueError before `fit`, and for a context of other bins or units than those fitted.
        """
        if self._fitted_shape is None:
            raise ValueError(f"{type(self).__name__} has not been fitted: call fit first")
        _check_values("context", context, self.modality)
        if context.shape[1:] != self._fitted_shape:
            raise ValueError(f"context has (bins, units) {context.shape[1:]}, fitted with {self._fitted_shape}")
        expected = self._predict(np.asarray(context, dtype=float))
        return np.broadcast_to(expected, (len(context), self.horizon_bins, context.shape[2])).copy()

    @abstractmethod
    def _fit(
        self, train_context: np.ndarray, train_future: np.ndarray, valid_context: np.ndarray, valid_future: np.ndarray
    ) -> None: ...

    @abstractmethod
    def _predict(self, context: np.ndarray) -> np.ndarray:
        """Broadcasts to (trials, horizon bins, units)."""


def validation_loss(modality: str, train_future: np.ndarray) -> Loss:
    """Loss (future, expected) that chooses settings, up to constants; `expected` may broadcast to `future`.

    Poisson negative log-likelihood for spikes; for continuous signals squared error in units of each unit's
    variance over the training trials, so that no unit decides by its scale.
    """
    if modality == "spikes":
        return _poisson_loss
    variance_C = train_future.reshape(-1, train_future.shape[-1]).var(axis=0)
    weight_C = np.divide(1.0, variance_C, out=np.zeros_like(variance_C), where=variance_C > 0)
    return lambda future, expected: float(np.mean((future - expected) ** 2 * weight_C))


def best(candidates: Iterable[Settings], loss: Callable[..., float]) -> Settings:
    """The settings of least loss(**settings); the first among equals."""
    return min(candidates, key=lambda settings: loss(**settings))


def mean_over_bins(*signals: np.ndarray) -> np.ndarray:
    """Mean of each unit over all bins of all signals of the same trials, (units,)."""
    return np.concatenate(signals, axis=1).mean(axis=(0, 1))


def with_pseudo_spike(rates: np.ndarray, bins: int) -> np.ndarray:
    """Rates counted over `bins` bins with one spike more at the mean rate of all units, so that none is 0."""
    return (rates * bins + 1) / (bins + 1 / rates.mean())


def usual_rates(*signals: np.ndarray) -> np.ndarray:
    """`mean_over_bins` of counts, with one pseudo-spike, (units,)."""
    return with_pseudo_spike(mean_over_bins(*signals), sum(len(signal) * signal.shape[1] for signal in signals))


def usual_values(modality: str, *signals: np.ndarray) -> np.ndarray:
    """`usual_rates` of counts, `mean_over_bins` of other signals, (units,)."""
    return usual_rates(*signals) if modality == "spikes" else mean_over_bins(*signals)


def _poisson_loss(future: np.ndarray, rates: np.ndarray) -> float:
    rates = np.maximum(rates, 1e-9)
    if rates.shape[-2] == 1:  # the same for every bin: the mean count says as much, many times faster
        future = future.mean(axis=-2, keepdims=True)
    return float(np.mean(rates) - np.mean(future * np.log(rates)))


def _check_values(name: str, values: np.ndarray, modality: str) -> None:
    if values.ndim != 3 or 0 in values.shape:
        raise ValueError(f"{name} has shape {values.shape}, expected (trials, bins, units) with at least one of each")
    missing = int((~np.isfinite(values)).sum())
    if missing:
        raise ValueError(f"{name} holds {missing} NaN or infinite values: leave those trials out")
    if modality == "spikes" and (values < 0).any():
        raise ValueError(f"{name} holds negative values (least: {values.min():g}), expected spike counts")


def _check_shapes(shapes: dict[str, tuple[int, ...]]) -> None:
    for first, second, axis, what in (
        ("train_context", "train_future", 0, "trials"),
        ("valid_context", "valid_future", 0, "trials"),
        ("train_context", "valid_context", 1, "bins"),
        ("train_future", "valid_future", 1, "bins"),
        ("train_context", "train_future", 2, "units"),
        ("train_context", "valid_context", 2, "units"),
        ("train_context", "valid_future", 2, "units"),
    ):
        if shapes[first][axis] != shapes[second][axis]:
            raise ValueError(
                f"{first} has {shapes[first][axis]} {what} and {second} has {shapes[second][axis]}: they must agree"
            )
