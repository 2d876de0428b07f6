"""The Gaussian head against the dense density."""

import numpy as np
import pytest
import torch

from neurochorus.models.heads import GaussianHead, GaussianHeadConfig


def test_loss_matches_the_dense_density_and_samples_the_covariance() -> None:
    torch.manual_seed(0)
    head = GaussianHead(GaussianHeadConfig(rank=2), hidden=4, latents=3)
    torch.nn.init.normal_(head.output.weight, std=0.5)
    hidden, target = torch.randn(1, 1, 4), torch.randn(1, 1, 3)
    mean, sd, factor = (part[0, 0] for part in head.parameters_of(hidden))
    covariance = factor @ factor.T + torch.diag(sd.square())
    dense = torch.distributions.MultivariateNormal(mean, covariance)
    loss = head.loss(hidden, target, torch.ones(1, 1, dtype=torch.bool))
    assert float(loss.detach()) == pytest.approx(-float(dense.log_prob(target[0, 0]).detach()) / 3, rel=1e-5)
    samples = head.sample(hidden[:, 0], 40_000, torch.Generator().manual_seed(0))[:, 0].detach()
    np.testing.assert_allclose(np.cov(samples.numpy().T), covariance.detach().numpy(), atol=0.05)
    np.testing.assert_allclose(samples.mean(dim=0).numpy(), mean.detach().numpy(), atol=0.03)
    cold = head.sample(hidden[:, 0], 40_000, torch.Generator().manual_seed(0), temperature=0.5)[:, 0].detach()
    np.testing.assert_allclose(np.cov(cold.numpy().T), 0.25 * covariance.detach().numpy(), atol=0.02)
