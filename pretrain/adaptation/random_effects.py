"""Groups that differ and members that differ within them: how far a group's own mean is to be believed.

One-way random effects, y_gi = mu + b_g + e_gi with variances B (of groups) and W (within), by the method of moments
(analysis of variance with unequal sizes; Searle, Casella and McCulloch, Variance Components, 1992, section 3.6):

    W = sum_gi (y_gi - y_g)^2 / (N - G),   B = max(0, (sum_g n_g (y_g - y)^2 - (G - 1) W) / (N - sum_g n_g^2 / N)).

A group's mean is then shrunk, mu + (B / (B + W / n_g)) (y_g - mu), with mu the mean of group means weighted by
1 / (B + W / n_g). Columns are treated one by one. N members, G groups, K columns.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class RandomEffects:
    mean_K: np.ndarray
    "mu"
    between_K: np.ndarray
    "B"
    within_K: np.ndarray
    "W"
    means: dict[str, np.ndarray]
    "Group -> its shrunk mean (K,)."
    sizes: dict[str, int]

    @classmethod
    def of(cls, values_NK: np.ndarray, groups: Sequence[str]) -> "RandomEffects":
        """Fit them to values of members and the group that each belongs to. Raises ValueError when there is none."""
        values_NK = np.asarray(values_NK, dtype=np.float64)
        if not len(values_NK):
            raise ValueError("random effects: no values")
        names, number_N = np.unique(np.asarray(groups, dtype=object).astype(str), return_inverse=True)
        sizes_G = np.bincount(number_N).astype(np.float64)
        sums_GK = np.zeros((len(names), values_NK.shape[1]))
        np.add.at(sums_GK, number_N, values_NK)
        own_GK = sums_GK / sizes_G[:, None]
        total, count = len(values_NK), len(names)
        repeated = total > count  # else nothing tells groups from members: all count as one
        centre, fitted = (own_GK[number_N], count) if repeated else (values_NK.mean(axis=0), 1)
        within_K = np.square(values_NK - centre).sum(axis=0) / max(1, total - fitted)
        between_K = np.zeros_like(within_K)
        if count > 1 and repeated:
            spread_K = (sizes_G[:, None] * np.square(own_GK - values_NK.mean(axis=0))).sum(axis=0)
            balance = total - np.square(sizes_G).sum() / total
            between_K = np.maximum(0.0, (spread_K - (count - 1) * within_K) / balance)
        noise_GK = within_K / sizes_G[:, None]
        weight_GK = 1.0 / np.maximum(between_K + noise_GK, 1e-12)
        mean_K = (weight_GK * own_GK).sum(axis=0) / weight_GK.sum(axis=0)
        trust_GK = between_K / np.maximum(between_K + noise_GK, 1e-12)
        shrunk_GK = mean_K + trust_GK * (own_GK - mean_K)
        means = {str(name): shrunk for name, shrunk in zip(names, shrunk_GK)}
        return cls(mean_K, between_K, within_K, means, {str(n): int(s) for n, s in zip(names, sizes_G)})

    def expected(self, group: str) -> tuple[np.ndarray, np.ndarray]:
        """Mean and variance (K,) of what a new member of a group is expected to be; the group may be unknown."""
        if group not in self.means:
            return self.mean_K, self.within_K + self.between_K
        noise_K = self.within_K / self.sizes[group]
        left_K = self.between_K * noise_K / np.maximum(self.between_K + noise_K, 1e-12)
        return self.means[group], self.within_K + left_K
