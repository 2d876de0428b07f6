"""Rows of a new session from its factors and a rotation to those of the model.

Read-out: loadings of the session's units on the model's factors, hence on its latents. Bias: such that a unit's mean
over the factors is its rate, log r - w' w / 2 for the exponential of Gaussian factors. Read-in: of all rows under which
the encoder's input moves with the factors as it did in pretraining, those nearest to given ones, weighed by the noise
of units: R + N^-1 F (F' N^-1 F)^-1 (H' - F' R) (least squares under the linear constraint F' R = H'). The session bias
puts the encoder's input at its mean. C units, L latents, K factors of the model, J of the session, D read-in width.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from neurochorus.models import Autoencoder
from neurochorus.models.reference import LatentReference
from neurochorus.pretrain.adaptation.alignment import Alignment, Moments
from neurochorus.pretrain.adaptation.session_factors import SessionFactors

RIDGE = 1e-3
LARGEST_LOADING = 1.5
"Of a unit's log rate on the factors: their sd is 1, and nothing recorded is modulated more."


@dataclass(frozen=True)
class SessionRows:
    """What a new session's units and the session start with."""

    read_in_CD: Tensor
    read_out_CL: Tensor
    bias_C: Tensor
    session_bias_D: Tensor


def aligned_rows(
    autoencoder: Autoencoder,
    reference: LatentReference,
    scaled: Moments,
    own: SessionFactors,
    alignment: Alignment,
    mean_C: Tensor,
    base_CD: Tensor,
) -> SessionRows:
    """`mean_C`: the units' train rates; `base_CD`: read-in rows that are moved no more than the factors ask for."""
    covariance, third, trajectory = own.sums.means()
    to_session_KJ = torch.linalg.inv(scaled.scale_KK) @ alignment.rotation_JK.T
    session_scale_JJ = Moments.of(covariance, third, trajectory).scale_KK
    to_session_KJ = to_session_KJ @ session_scale_JJ  # v = u @ this
    root_C = autoencoder.observation.information(mean_C.double()).clamp_min(1e-9).sqrt()
    loading_CK = (own.loading_CK @ to_session_KJ.T) / root_C[:, None]
    size_C1 = loading_CK.norm(dim=1, keepdim=True)
    loading_CK = loading_CK * (LARGEST_LOADING / size_C1.clamp_min(LARGEST_LOADING))
    read_out_CL = loading_CK @ reference.from_latent_LK.T
    bias_C = autoencoder.observation.initial_bias(mean_C.float()).double() - read_out_CL @ reference.latent_mean_L
    if autoencoder.modality == "spikes":
        bias_C = bias_C - 0.5 * loading_CK.square().sum(dim=1)
    # the encoder's input must move with v as it does with the part of u that v shows
    from_session_JK = torch.linalg.pinv(to_session_KJ)
    wanted_JD = from_session_JK @ reference.hidden_response_DK.T
    precise_CJ = own.response_CK / own.seen_variance_C[:, None]
    gram_JJ = own.response_CK.T @ precise_CJ
    gram_JJ = gram_JJ + RIDGE * gram_JJ.diagonal().mean() * torch.eye(len(gram_JJ), dtype=torch.float64)
    base_CD = base_CD.double()
    read_in_CD = base_CD + precise_CJ @ torch.linalg.solve(gram_JJ, wanted_JD - own.response_CK.T @ base_CD)
    session_bias_D = reference.hidden_mean_D - own.seen_mean_C @ read_in_CD
    return SessionRows(read_in_CD.float(), read_out_CL.float(), bias_C.float(), session_bias_D.float())
