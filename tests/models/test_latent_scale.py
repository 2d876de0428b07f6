"""Latents scaled by what they change in the read-out: the same latents, but what nobody reads is small."""

import pytest
import torch

from neurochorus.models import LatentMoments, Whitening
from neurochorus.models.whitening import LEAST_SCALE
from tests.models.conftest import small_model


def scaled(latent_BTL: torch.Tensor, metric_LL: torch.Tensor) -> Whitening:
    moments, whitening = LatentMoments(latent_BTL.shape[-1]), Whitening(latent_BTL.shape[-1])
    moments.add(latent_BTL, torch.ones(latent_BTL.shape[:2], dtype=torch.bool))
    moments.write_into(whitening, metric_LL)
    return whitening


def test_distances_are_those_of_the_metric_and_channels_uncorrelated() -> None:
    torch.manual_seed(0)
    latent_BTL = torch.randn(50, 40, 3) @ torch.randn(3, 3) + 1.0
    root = torch.randn(3, 3)
    metric_LL = root @ root.T
    whitening = scaled(latent_BTL, metric_LL)
    moved_BTL = whitening(latent_BTL)
    covariance = moved_BTL.flatten(0, 1).T.cov()
    torch.testing.assert_close(covariance, covariance.diagonal().diag(), atol=1e-3, rtol=0)
    assert float(covariance[0, 0]) == pytest.approx(1.0, rel=1e-3)
    assert bool((covariance.diagonal().diff() < 0).all())
    torch.testing.assert_close(whitening.undo(moved_BTL), latent_BTL, atol=1e-4, rtol=1e-4)
    difference_L, other_L = latent_BTL[0, 0] - latent_BTL[1, 3], latent_BTL[5, 5] - latent_BTL[7, 9]
    wanted = (difference_L @ metric_LL @ difference_L) / (other_L @ metric_LL @ other_L)
    found = (moved_BTL[0, 0] - moved_BTL[1, 3]).square().sum() / (moved_BTL[5, 5] - moved_BTL[7, 9]).square().sum()
    assert float(found) == pytest.approx(float(wanted), rel=1e-2)


def test_a_direction_that_nobody_reads_stays_small() -> None:
    torch.manual_seed(0)
    whitening = scaled(torch.randn(50, 40, 2) * torch.tensor([1.0, 1e-2]), torch.tensor([[1.0, 0.0], [0.0, 0.0]]))
    sd_L = whitening(torch.randn(50, 40, 2) * torch.tensor([1.0, 1e-2])).flatten(0, 1).std(dim=0)
    torch.testing.assert_close(sd_L, torch.tensor([1.0, LEAST_SCALE]), rtol=0.1, atol=0)
    assert whitening.increment_sd[0] == whitening.increment_sd[1]


@pytest.mark.parametrize("modality", ["spikes", "continuous"])
def test_the_metric_is_what_a_small_change_does_to_the_read_outs(modality: str) -> None:
    model = small_model(modality=modality, autoencoder={"present_weight": 0.5, "future_weights": {2: 2.0}})
    autoencoder = model.autoencoder
    with torch.no_grad():
        autoencoder.future_maps.add_(0.3 * torch.randn_like(autoencoder.future_maps))
    change_L = torch.randn(4)
    rows_CL, mean_C = autoencoder.read_out_rows.weight[1:], autoencoder.unit_mean[1:]
    weight_C = mean_C if modality == "spikes" else torch.ones_like(mean_C)
    weight_C = weight_C / weight_C.sum()
    wanted = 0.5 * (weight_C * (rows_CL @ change_L).square()).sum()
    wanted = wanted + 2.0 * (weight_C * (rows_CL @ (change_L @ autoencoder.future_maps[0])).square()).sum()
    found = change_L.double() @ autoencoder.read_out_metric() @ change_L.double()
    assert float(found) == pytest.approx(float(wanted.detach()), rel=1e-5)


def test_latents_that_nobody_reads_are_refused() -> None:
    with pytest.raises(ValueError, match="no unit's read-out"):
        scaled(torch.randn(50, 40, 2), torch.zeros(2, 2))
