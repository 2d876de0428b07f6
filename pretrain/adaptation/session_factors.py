"""The factors of a new session, from its counts alone: principal components of their covariance 1 and 2 bins apart.

Noise of counts is independent between bins, so those covariances are of what units share, and the noise that is left in
them has eigenvalues of either sign: an eigenvalue is a factor's if it is above the size of the most negative one.
B samples, T bins, C units, K factors.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from neurochorus.data_shards.batch import Batch
from neurochorus.models import Autoencoder
from neurochorus.pretrain.adaptation.factor_statistics import FactorSums, window_starts
from neurochorus.pretrain.adaptation.reference_pass import residuals

LARGEST = 100_000_000
"Entries (bins x units) of a session that are read."
SUBSPACE_LAGS = (1, 2)


@dataclass(frozen=True)
class SessionFactors:
    """Factors v, scaled so that the symmetric part of their covariance at the subspace's lags is the identity."""

    loading_CK: Tensor
    "Of Pearson residuals (z-scores) on the factors, what noise adds to their size taken off."
    noise_K: Tensor
    "Variance of the noise in the factors as `inverse_CK` estimates them."
    response_CK: Tensor
    "How what the encoder reads of a unit moves with the factors."
    seen_mean_C: Tensor
    seen_variance_C: Tensor
    sums: FactorSums

    @classmethod
    def of(cls, autoencoder: Autoencoder, batches: Iterable[Batch], most: int) -> "SessionFactors | None":
        """Those of the one session of `batches`, at most `most`; None where nothing is shared by its units."""
        kept, entries = [], 0
        for batch in batches:
            if not batch.sample_ids:
                continue
            mask_BT = batch.bin_mask_BT
            units = autoencoder.units(batch.unit_rows_BC)
            seen_BTC = autoencoder.observation.transform(batch.signal_BTC, units.mean_BC, units.sd_BC)
            starts = window_starts(batch.sample_ids, len(mask_BT))
            kept.append((residuals(autoencoder, batch) * mask_BT.unsqueeze(-1), seen_BTC, mask_BT, starts))
            entries += batch.signal_BTC.numel()
            if entries > LARGEST:
                break
        shared_CC = _shared([(residual_BTC, mask_BT) for residual_BTC, _, mask_BT, _ in kept])
        power_C, vectors_CC = torch.linalg.eigh(shared_CC)
        power_C, vectors_CC = power_C.flip(0), vectors_CC.flip(1)
        edge = float(-power_C[-1].clamp(max=0))
        count = min(most, int((power_C > max(edge, 1e-9)).sum()))
        if not count:
            return None
        power_K, vectors_CK = power_C[:count], vectors_CC[:, :count]
        vectors_CK = vectors_CK * _signs(vectors_CK)
        inverse_CK = vectors_CK * power_K.rsqrt()
        # (a2 - e2) / a: what is left of an eigenvalue a when noise with edge e is taken off
        loading_CK = vectors_CK * ((power_K.square() - edge**2) / power_K).clamp_min(0).sqrt()
        sums = FactorSums(count)
        units, bins = len(vectors_CK), torch.zeros(())
        seen_C, squares_C = torch.zeros(units, dtype=torch.float64), torch.zeros(units, dtype=torch.float64)
        products_CK, later_K = torch.zeros(units, count, dtype=torch.float64), torch.zeros(count, dtype=torch.float64)
        for residual_BTC, seen_BTC, mask_BT, starts in kept:
            factors_BTK = residual_BTC.double() @ inverse_CK
            sums.add(factors_BTK, mask_BT, starts)
            seen_BTC = seen_BTC.double() * mask_BT.unsqueeze(-1)
            later_NK = (factors_BTK * mask_BT.unsqueeze(-1))[:, 1:].flatten(0, 1)
            products_CK += seen_BTC[:, :-1].flatten(0, 1).T @ later_NK
            later_K += later_NK.sum(dim=0)
            seen_C, squares_C = seen_C + seen_BTC.sum(dim=(0, 1)), squares_C + seen_BTC.square().sum(dim=(0, 1))
            bins = bins + mask_BT.sum()
        mean_C = seen_C / bins
        products_CK = (products_CK - torch.outer(mean_C, later_K)) / sums.pairs_G[0].clamp_min(1)
        first_KK = sums.means()[0][0]
        response_CK = torch.linalg.lstsq(first_KK.T, products_CK.T).solution.T
        return cls(
            loading_CK, 1 / power_K, response_CK, mean_C, (squares_C / bins - mean_C.square()).clamp_min(1e-9), sums
        )


def _shared(pieces: list[tuple[Tensor, Tensor]]) -> Tensor:
    """Symmetric covariance (C, C) of residuals of bins a few lags apart."""
    total, pairs = torch.zeros(()), torch.zeros(())
    for residual_BTC, mask_BT in pieces:
        for lag in SUBSPACE_LAGS:
            if lag < residual_BTC.shape[1]:
                early, late = residual_BTC[:, :-lag].flatten(0, 1), residual_BTC[:, lag:].flatten(0, 1)
                total = total + (early.T @ late).double()
                pairs = pairs + (mask_BT[:, :-lag] & mask_BT[:, lag:]).sum()
    covariance = total / pairs.clamp_min(1)
    return 0.5 * (covariance + covariance.T)


def _signs(vectors_CK: Tensor) -> Tensor:
    """Such that the largest entry of each column is positive: eigenvectors have no sign of their own."""
    largest_1K = vectors_CK.abs().argmax(dim=0, keepdim=True)
    return vectors_CK.gather(0, largest_1K).sign()
