"""What the rows of the pretraining units say about rows of new units: mean and spread, by region and by rate.

A row of a known unit is a slope times the log of its rate (counts only), plus an effect of its region, plus a rest.
Slopes are those within regions, shrunk by how well they are known; regions are shrunk to the mean over regions
(random_effects.py). The rest has a full covariance for read-outs where there are units enough, else variances.
N known units, R new ones, K columns of a table, G regions.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from neurochorus.models import Autoencoder, NeuralModel
from neurochorus.models.row_prior import ROW_TABLES, RowPrior
from neurochorus.pretrain.adaptation.random_effects import RandomEffects

LEAST_RATE = 1e-6
UNITS_A_COLUMN = 5
"Known units a column from which on a full covariance is estimated."
WORST_CONDITION = 1e4
LEAST_VARIANCE = 1e-4


@dataclass(frozen=True)
class KnownRows:
    """One table's rows of known units."""

    effects: RandomEffects
    slope_K: np.ndarray
    centre: float
    "Mean log rate of the known units."
    covariance: np.ndarray
    "Of a row around what is expected of it within its region, (K,) or (K, K)."

    @classmethod
    def of(cls, rows_NK: np.ndarray, log_rate_N: np.ndarray, regions: Sequence[str], full: bool) -> "KnownRows":
        rows_NK = np.asarray(rows_NK, dtype=np.float64)
        centre = float(log_rate_N.mean())
        slope_K = _slope(rows_NK, log_rate_N, regions)
        rest_NK = rows_NK - np.outer(log_rate_N - centre, slope_K)
        effects = RandomEffects.of(rest_NK, regions)
        variance_K = np.maximum(effects.within_K, LEAST_VARIANCE)
        count, columns = rows_NK.shape
        groups = len(effects.means)
        if full and count - groups >= UNITS_A_COLUMN * columns:
            own_NK = _within(rest_NK, regions)
            covariance = own_NK.T @ own_NK / (count - groups) + LEAST_VARIANCE * np.eye(columns)
            if np.linalg.cond(covariance) < WORST_CONDITION:
                return cls(effects, slope_K, centre, covariance)
        return cls(effects, slope_K, centre, variance_K)

    def expected(self, log_rate_R: np.ndarray, regions: Sequence[str]) -> np.ndarray:
        """Means (R, K) of new units' rows."""
        means_RK = np.stack([self.effects.expected(region)[0] for region in regions])
        return means_RK + np.outer(log_rate_R - self.centre, self.slope_K)

    def precision(self, regions: Sequence[str]) -> np.ndarray:
        """Of new units' rows around `expected`, (K,) or (K, K); what is not known of regions widens it, on average."""
        wider_K = np.mean([self.effects.expected(region)[1] for region in regions], axis=0) - self.effects.within_K
        if self.covariance.ndim == 2:
            return np.linalg.inv(self.covariance + np.diag(wider_K))
        return 1 / (self.covariance + wider_K)


def known_rows(model: NeuralModel) -> dict[str, KnownRows]:
    """Those of each of ROW_TABLES that the model has, of all its sessions."""
    own = model.autoencoder
    log_rate_N = log_rates(model, own.unit_mean[1:])
    regions = [
        region for session in model.registry.sessions for region in session.regions or [""] * len(session.unit_ids)
    ]
    return {
        name: KnownRows.of(table[1:].numpy(), log_rate_N, regions, full=name == "read_out")
        for name, table in row_tables(own).items()
    }


def row_tables(autoencoder: Autoencoder) -> dict[str, Tensor]:
    """Rows (1 + units, K) by name of ROW_TABLES, as they are now, on the CPU."""
    found = {
        "read_in": autoencoder.read_in_rows.weight,
        "read_out": autoencoder.read_out_rows.weight,
        "gain": autoencoder.unit_offsets.weight[:, 1:2],
    }
    if autoencoder.history_rows is not None:
        found["history"] = autoencoder.history_rows.weight
    if autoencoder.earlier_rows is not None:
        found["earlier"] = autoencoder.earlier_rows.weight
    return {name: found[name].detach().cpu().float() for name in ROW_TABLES if name in found}


def log_rates(model: NeuralModel, mean_N: Tensor) -> np.ndarray:
    """Log mean counts per bin; zeros for continuous signals, whose means say nothing about rows."""
    if model.modality != "spikes":
        return np.zeros(len(mean_N))
    return np.log(np.maximum(mean_N.detach().cpu().double().numpy(), LEAST_RATE))


def row_prior(
    model: NeuralModel,
    known: dict[str, KnownRows],
    first_row: int,
    log_rate_R: np.ndarray,
    regions: Sequence[str],
    prior_bias_R: Tensor,
    pseudo_spikes: Tensor | float,
    bins_R: np.ndarray,
    strength: float,
) -> RowPrior:
    """The prior of all rows from `first_row` on.

    `strength` 1 is Bayes' rule: the loss counts each bin once for every decoder that is asked for it, so the prior
    counts as often, by the sum of their weights.
    """
    config = model.config.autoencoder
    return RowPrior(
        first_row,
        {name: torch.from_numpy(rows.expected(log_rate_R, regions)) for name, rows in known.items()},
        {name: torch.from_numpy(rows.precision(regions)) for name, rows in known.items()},
        prior_bias_R,
        pseudo_spikes,
        torch.from_numpy(bins_R),
        gamma=model.modality == "spikes" and config.rate == "exp",
        strength=strength * config.decoders_weight,
    )


def _within(values_NK: np.ndarray, regions: Sequence[str]) -> np.ndarray:
    """Values less the mean of their region."""
    _, number_N = np.unique(np.asarray(regions, dtype=object).astype(str), return_inverse=True)
    sums_GK = np.zeros((number_N.max() + 1, values_NK.shape[1]))
    np.add.at(sums_GK, number_N, values_NK)
    return values_NK - (sums_GK / np.bincount(number_N)[:, None])[number_N]


def _slope(rows_NK: np.ndarray, log_rate_N: np.ndarray, regions: Sequence[str]) -> np.ndarray:
    """Least squares within regions, times 1 - variance / slope^2 where that is positive, else 0."""
    x_N, y_NK = _within(log_rate_N[:, None], regions)[:, 0], _within(rows_NK, regions)
    power = float((x_N**2).sum())
    if power < 1e-9 or len(x_N) < 3:
        return np.zeros(rows_NK.shape[1])
    slope_K = x_N @ y_NK / power
    free = max(1, len(x_N) - len(set(regions)) - 1)
    variance_K = np.square(y_NK - np.outer(x_N, slope_K)).sum(axis=0) / free / power
    return slope_K * np.maximum(0.0, 1 - variance_K / np.maximum(slope_K**2, 1e-30))
