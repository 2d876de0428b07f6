"""The pass over the train split, after stage 1, that makes a model's latent reference (models/reference.py).

It reads signals and rows only; the encoder is not run. Each session counts by its bins, and less where its units tell
little of the factors. C units, L latents, K factors, D read-in width.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from neurochorus.data_shards.batch import Batch
from neurochorus.models import Autoencoder, NeuralModel
from neurochorus.models.reference import LatentReference
from neurochorus.models.units import read_in
from neurochorus.pretrain.adaptation.factor_statistics import LAGS, THIRD_SPACING, FactorSums, window_starts
from neurochorus.pretrain.distributed import Ranks

LEAST_SHARE = 0.05
"Of the strongest direction's variance, for a direction to be a factor."
MOST_FACTORS = 8


@dataclass(frozen=True)
class Directions:
    """The directions of the latents that known read-outs see."""

    from_latent_LK: Tensor
    loading_LK: Tensor
    "Read-out rows times this are loadings on the factors."
    spectrum_L: Tensor

    @classmethod
    def of(cls, autoencoder: Autoencoder, covariance_LL: Tensor) -> "Directions":
        """`covariance_LL` of the latents as the rows see them. Raises ValueError when the rows see nothing."""
        rows_CL = autoencoder.read_out_rows.weight[1:].detach().double().cpu()
        weight_C = autoencoder.observation.information(autoencoder.unit_mean[1:].double().cpu())
        latents = len(covariance_LL)
        floor = 1e-6 * covariance_LL.diagonal().mean() * torch.eye(latents, dtype=torch.float64)
        factor_LL = torch.linalg.cholesky(covariance_LL.double() + floor)
        metric_LL = rows_CL.T @ (rows_CL * weight_C[:, None]) / weight_C.sum()
        power_L, turn_LL = torch.linalg.eigh(factor_LL.T @ metric_LL @ factor_LL)
        power_L, turn_LL = power_L.flip(0).clamp_min(0), turn_LL.flip(1)
        if not power_L[0] > 0:
            raise ValueError("no unit's read-out depends on the latents: the autoencoder has not learned anything yet")
        count = min(MOST_FACTORS, int((power_L >= LEAST_SHARE * power_L[0]).sum()))
        turn_LK = turn_LL[:, :count]
        from_latent_LK = torch.linalg.solve_triangular(factor_LL.T, turn_LK, upper=True)
        return cls(from_latent_LK, factor_LL @ turn_LK, power_L / power_L.sum())


class _Session:
    """Sums of one session."""

    def __init__(self, factors: int, width: int):
        self.sums = FactorSums(factors)
        self.hidden_D = torch.zeros(width, dtype=torch.float64)
        self.bins = torch.zeros(1, dtype=torch.float64)
        self.products_DK = torch.zeros(width, factors, dtype=torch.float64)
        self.later_K = torch.zeros(factors, dtype=torch.float64)
        self.information = torch.zeros(1, dtype=torch.float64)

    @property
    def parts(self) -> list[Tensor]:
        return [*self.sums.parts, self.hidden_D, self.bins, self.products_DK, self.later_K]


def residuals(autoencoder: Autoencoder, batch: Batch) -> Tensor:
    """Signals with noise of about unit variance, (B, T, C): Pearson residuals of counts, or z-scores."""
    units = autoencoder.units(batch.unit_rows_BC)
    weight_B1C = autoencoder.observation.information(units.mean_BC).unsqueeze(1)
    if autoencoder.modality == "spikes":
        rate_B1C = units.mean_BC.unsqueeze(1)
        return (batch.signal_BTC.float() - rate_B1C) * weight_B1C.clamp_min(1e-9).rsqrt() * (rate_B1C > 0)
    return autoencoder.observation.target(batch.signal_BTC, units.mean_BC, units.sd_BC) * (units.sd_BC.unsqueeze(1) > 0)


@torch.no_grad()
def fit_reference(
    model: NeuralModel, batches: Iterable[Batch], ranks: Ranks, covariance_LL: Tensor, mean_L: Tensor
) -> LatentReference:
    """The reference of a model with trained stage 1 from `batches`, this rank's share of the train split.

    `covariance_LL`, `mean_L`: of the latents as the read-out rows see them. All ranks must call it, and end with the
    same. Raises ValueError when no read-out depends on the latents.
    """
    own = model.autoencoder
    directions = Directions.of(own, covariance_LL.cpu())
    factors, width = directions.from_latent_LK.shape[1], own.config.encoder.width
    sessions = [_Session(factors, width) for _ in model.registry.sessions]
    inverses: dict[int, Tensor] = {}
    for batch in batches:
        if not batch.sample_ids:
            continue  # all padding
        batch = batch.to(ranks.device)
        number = int(batch.session_B[0]) - 1
        session, units = sessions[number], own.units(batch.unit_rows_BC)
        if number not in inverses:
            inverses[number], session.information[0] = _inverse(own, directions, batch)
        mask_BT = batch.bin_mask_BT
        factors_BTK = (residuals(own, batch).double() @ inverses[number].to(ranks.device)).cpu()
        session.sums.add(factors_BTK, mask_BT.cpu(), window_starts(batch.sample_ids, len(mask_BT)))
        seen_BTC = own.observation.transform(batch.signal_BTC, units.mean_BC, units.sd_BC)
        hidden_BTD = read_in(seen_BTC, units.read_in_BCD) + own.session_bias(batch.session_B).unsqueeze(1)
        hidden_BTD = (hidden_BTD.double() * mask_BT.unsqueeze(-1)).cpu()
        session.hidden_D += hidden_BTD.sum(dim=(0, 1))
        session.bins += mask_BT.sum().cpu()
        # what the next bin says of the factors: the noise of a bin is in its own hidden state too
        later_NK = (factors_BTK * mask_BT.cpu().unsqueeze(-1))[:, 1:].flatten(0, 1)
        session.products_DK += hidden_BTD[:, :-1].flatten(0, 1).T @ later_NK
        session.later_K += later_NK.sum(dim=0)
    _all_reduce(sessions, ranks)
    return _joined(sessions, directions, mean_L)


def _inverse(autoencoder: Autoencoder, directions: Directions, batch: Batch) -> tuple[Tensor, float]:
    """Residuals to factors (C, K) by least squares, and how much the session's units tell of the factors."""
    units = autoencoder.units(batch.unit_rows_BC[:1])
    weight_C = autoencoder.observation.information(units.mean_BC[0]).double().cpu()
    rows_CL = units.read_out_BCL[0].double().cpu()
    loading_CK = (rows_CL @ directions.loading_LK) * weight_C.clamp_min(0).sqrt()[:, None]
    gram_KK = loading_CK.T @ loading_CK
    gram_KK = gram_KK + 1e-3 * gram_KK.diagonal().mean() * torch.eye(len(gram_KK), dtype=torch.float64)
    inverse_KK = torch.linalg.inv(gram_KK)
    return loading_CK @ inverse_KK, float(1 / inverse_KK.diagonal().sum())


def _all_reduce(sessions: list[_Session], ranks: Ranks) -> None:
    if not dist.is_initialized():
        return
    for session in sessions:
        for part in session.parts:
            total = part.to(ranks.device)
            dist.all_reduce(total)
            part.copy_(total)
        information = session.information.to(ranks.device)
        dist.all_reduce(information, op=dist.ReduceOp.MAX)  # a rank may not have met the session
        session.information.copy_(information)


def _joined(sessions: list[_Session], directions: Directions, mean_L: Tensor) -> LatentReference:
    weights = torch.stack([session.bins[0] * session.information[0] for session in sessions])
    weights = weights / weights.sum().clamp_min(1e-30)
    covariance_GKK = third_KKK = trajectory_TK = hidden_D = response_DK = torch.zeros(())
    for weight, session in zip(weights, sessions):
        covariances, third, trajectory = session.sums.means()
        mean_D = session.hidden_D / session.bins.clamp_min(1)
        products_DK = session.products_DK - torch.outer(mean_D, session.later_K)
        products_DK = products_DK / session.sums.pairs_G[0].clamp_min(1)
        response_DK = response_DK + weight * products_DK
        covariance_GKK, third_KKK = covariance_GKK + weight * covariances, third_KKK + weight * third
        trajectory_TK, hidden_D = trajectory_TK + weight * trajectory, hidden_D + weight * mean_D
    counts_T = torch.stack([session.sums.trajectory_count_T for session in sessions]).sum(dim=0)
    bins = max(1, int((counts_T > 0).sum()))
    first_KK = covariance_GKK[0].T  # E[u_{t+1} u_t']
    return LatentReference(
        from_latent_LK=directions.from_latent_LK,
        latent_mean_L=mean_L.double().cpu(),
        spectrum_L=directions.spectrum_L,
        lags_G=torch.tensor(LAGS, dtype=torch.float64),
        covariance_GKK=covariance_GKK,
        third_KKK=third_KKK,
        third_spacing=torch.tensor(float(THIRD_SPACING), dtype=torch.float64),
        trajectory_TK=trajectory_TK[:bins],
        trajectory_count_T=counts_T[:bins],
        hidden_mean_D=hidden_D,
        hidden_response_DK=torch.linalg.lstsq(first_KK, response_DK.T).solution.T,
    )
