"""Which rotation takes the factors of a model to those of a new session: by what both do in time.

With both scaled to a common unit, v = Q u with orthonormal rows of Q. Sought is the Q for which the covariances of v at
all lags, its third moments (which tell a factor from its negative) and its mean trajectory (where trials begin at a set
time) are those that Q makes of u's. Each difference counts by its variance: that of an estimate from so many bins, plus
an allowance for animals that are not alike. Descent on rotations from many starts, since there are many local optima.
S starts, G lags, K factors of the model, J <= K of the session, T bins.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from neurochorus.models.reference import LatentReference
from neurochorus.pretrain.adaptation.factor_statistics import LAGS
from neurochorus.pretrain.adaptation.session_factors import SUBSPACE_LAGS, SessionFactors

STARTS, STEPS, RATE = 64, 150, 0.05
SAME = 0.3
"Largest difference between rotations that count as one."
ALLOWANCE = {"covariance": 0.05, "third": 0.2, "trajectory": 0.1}
"Standard deviation of what differs between animals, in units of the factors' sd."
CORRELATED_BINS = 5.0
"Bins that tell as much as one that is independent of all others."


@dataclass(frozen=True)
class Moments:
    """Of factors whose subspace covariance is the identity."""

    covariance_GKK: Tensor
    third_KKK: Tensor
    trajectory_TK: Tensor
    scale_KK: Tensor
    "Factors as they were = these @ scale."

    @classmethod
    def of(cls, covariance_GKK: Tensor, third_KKK: Tensor, trajectory_TK: Tensor) -> "Moments":
        places = [LAGS.index(lag) for lag in SUBSPACE_LAGS]
        shared_KK = covariance_GKK[places].mean(dim=0)
        power_K, turn_KK = torch.linalg.eigh(0.5 * (shared_KK + shared_KK.T))
        power_K = power_K.clamp_min(1e-6 * float(power_K[-1].clamp_min(1e-12)))
        white_KK = (turn_KK * power_K.rsqrt()) @ turn_KK.T
        return cls(
            white_KK @ covariance_GKK @ white_KK,
            torch.einsum("abc,ai,bj,ck->ijk", third_KKK, white_KK, white_KK, white_KK),
            trajectory_TK @ white_KK,
            (turn_KK * power_K.sqrt()) @ turn_KK.T,
        )


@dataclass(frozen=True)
class Alignment:
    rotation_JK: Tensor
    "v = Q u, both scaled."
    misfit: float


def alignments(reference: Moments, counts_T: Tensor, own: SessionFactors, most: int) -> list[Alignment]:
    """The best rotations, different ones, the best first; `counts_T`: samples behind the model's mean trajectory."""
    covariance, third, trajectory = own.sums.means()
    moments = Moments.of(covariance, third, trajectory)
    misfit = _Misfit.of(reference, counts_T, moments, own)
    generator = torch.Generator().manual_seed(0)
    count, session_count = len(reference.third_KKK), len(moments.third_KKK)
    start = torch.linalg.qr(torch.randn(STARTS, count, count, generator=generator, dtype=torch.float64)).Q
    lower = torch.zeros(STARTS, count, count, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([lower], lr=RATE)
    for step in range(STEPS):
        optimizer.param_groups[0]["lr"] = RATE * (1 - step / STEPS)
        optimizer.zero_grad()
        loss_S = misfit(_rotated(start, lower, session_count))
        loss_S.sum().backward()
        optimizer.step()
    with torch.no_grad():
        rotations = _rotated(start, lower, session_count)
        order = misfit(rotations)
    found: list[Alignment] = []
    for place in order.argsort().tolist():
        one = Alignment(rotations[place], float(order[place]))
        if all(float((one.rotation_JK - other.rotation_JK).abs().max()) > SAME for other in found):
            found.append(one)
        if len(found) == most:
            break
    return found


def _rotated(start_SKK: Tensor, lower_SKK: Tensor, rows: int) -> Tensor:
    skew = lower_SKK.tril(-1)
    return (start_SKK @ torch.linalg.matrix_exp(skew - skew.mT))[:, :rows]


@dataclass(frozen=True)
class _Misfit:
    reference: Moments
    session: Moments
    weight_GJJ: Tensor
    weight_JJJ: Tensor
    weight_TJ: Tensor
    bins: int

    @classmethod
    def of(cls, reference: Moments, counts_T: Tensor, session: Moments, own: SessionFactors) -> "_Misfit":
        spread_J = 1 + own.noise_K
        outer_JJ = torch.outer(spread_J, spread_J)
        pairs_G = own.sums.pairs_G.clamp_min(1e-9) / CORRELATED_BINS
        triples = own.sums.triples.clamp_min(1e-9) / CORRELATED_BINS
        bins = min(len(counts_T), len(session.trajectory_TK))
        samples_T = own.sums.trajectory_count_T[:bins]
        known_T = ((samples_T > 0) & (counts_T[:bins] > 0)).double()
        noise_T = 1 / samples_T.clamp_min(1) + 1 / counts_T[:bins].clamp_min(1)
        return cls(
            reference,
            session,
            (own.sums.pairs_G > 0)[:, None, None] / (outer_JJ / pairs_G[:, None, None] + ALLOWANCE["covariance"] ** 2),
            1 / (outer_JJ[:, :, None] * spread_J / triples + ALLOWANCE["third"] ** 2),
            known_T[:, None] / (noise_T[:, None] * spread_J + ALLOWANCE["trajectory"] ** 2),
            bins,
        )

    def __call__(self, turn_SJK: Tensor) -> Tensor:
        """Of each rotation, (S,)."""
        made_SGJJ = turn_SJK.unsqueeze(1) @ self.reference.covariance_GKK @ turn_SJK.mT.unsqueeze(1)
        loss_S = (self.weight_GJJ * (made_SGJJ - self.session.covariance_GKK).square()).sum(dim=(1, 2, 3))
        third = self.reference.third_KKK
        made_SJJJ = torch.einsum("abc,sia,sjb,skc->sijk", third, turn_SJK, turn_SJK, turn_SJK)
        loss_S = loss_S + (self.weight_JJJ * (made_SJJJ - self.session.third_KKK).square()).sum(dim=(1, 2, 3))
        made_STJ = self.reference.trajectory_TK[: self.bins] @ turn_SJK.mT
        away_STJ = made_STJ - self.session.trajectory_TK[: self.bins]
        return loss_S + (self.weight_TJ * away_STJ.square()).sum(dim=(1, 2))


def scaled_reference(reference: LatentReference) -> Moments:
    return Moments.of(reference.covariance_GKK, reference.third_KKK, reference.trajectory_TK)
