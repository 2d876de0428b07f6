"""Sums over samples from which statistics of factors are made: covariances at lags, third moments, mean trajectories.

B samples, T bins, K factors, G lags.
"""

import torch
from torch import Tensor

LAGS = (1, 2, 3, 5, 8, 12, 20, 30, 45)
THIRD_SPACING = 2
TRAJECTORY_BINS = 400
"Bins of a sample whose means are kept."


class FactorSums:
    """Adds up products of different bins."""

    def __init__(self, factors: int):
        self.covariance_GKK = torch.zeros(len(LAGS), factors, factors, dtype=torch.float64)
        self.pairs_G = torch.zeros(len(LAGS), dtype=torch.float64)
        self.third_KKK = torch.zeros(factors, factors, factors, dtype=torch.float64)
        self.triples = torch.zeros(1, dtype=torch.float64)
        self.trajectory_TK = torch.zeros(TRAJECTORY_BINS, factors, dtype=torch.float64)
        self.trajectory_count_T = torch.zeros(TRAJECTORY_BINS, dtype=torch.float64)

    @property
    def parts(self) -> list[Tensor]:
        return list(vars(self).values())

    def add(self, factors_BTK: Tensor, mask_BT: Tensor, starts_B: list[int]) -> None:
        """Count samples in; sample i begins at bin starts_B[i] of what it was cut from."""
        masked_BTK = factors_BTK.double() * mask_BT.unsqueeze(-1)
        bins = masked_BTK.shape[1]
        for number, lag in enumerate(LAGS):
            if lag < bins:
                early, late = masked_BTK[:, :-lag].flatten(0, 1), masked_BTK[:, lag:].flatten(0, 1)
                self.covariance_GKK[number] += early.T @ late
                self.pairs_G[number] += (mask_BT[:, :-lag] & mask_BT[:, lag:]).sum()
        step = THIRD_SPACING
        if 2 * step < bins:
            first, second, third = masked_BTK[:, : -2 * step], masked_BTK[:, step:-step], masked_BTK[:, 2 * step :]
            pairs = torch.einsum("ni,nj->nij", first.flatten(0, 1), second.flatten(0, 1)).flatten(1)
            self.third_KKK += (pairs.T @ third.flatten(0, 1)).view_as(self.third_KKK)
            self.triples += mask_BT[:, 2 * step :].sum()
        for own_TK, valid_T, start in zip(masked_BTK, mask_BT, starts_B, strict=True):
            length = min(bins, max(0, TRAJECTORY_BINS - start))
            self.trajectory_TK[start : start + length] += own_TK[:length]
            self.trajectory_count_T[start : start + length] += valid_T[:length].double()

    def means(self) -> tuple[Tensor, Tensor, Tensor]:
        """Covariances (G, K, K), third moments (K, K, K) and mean trajectory (T, K); 0 where nothing was counted."""
        return (
            self.covariance_GKK / self.pairs_G.clamp_min(1)[:, None, None],
            self.third_KKK / self.triples.clamp_min(1),
            self.trajectory_TK / self.trajectory_count_T.clamp_min(1)[:, None],
        )


def window_starts(sample_ids: list[str], samples: int) -> list[int]:
    """The bin of its sample at which each window begins, by its key (`+start` where it was cut out)."""
    starts = [int(name.rpartition("+")[2]) if "+" in name else 0 for name in sample_ids]
    return starts + [0] * (samples - len(starts))
