"""What stage 2 is given of a variational encoder."""

import pytest
import torch

from neurochorus.models.dynamics.running_means import running_means
from neurochorus.pretrain.distributed import Ranks
from neurochorus.pretrain.stages import dynamics_stage, fit_whitening
from tests.models.conftest import small_model

ONE_RANK = Ranks(0, 1, 0, torch.device("cpu"))


@pytest.fixture
def counts() -> torch.Tensor:
    """Counts of session b_s1, (3 trials, 20 bins, 8 units)."""
    return torch.poisson(torch.full((3, 20, 8), 0.5), generator=torch.Generator().manual_seed(1))


def test_stage_two_predicts_whitened_draws_of_the_posterior(counts: torch.Tensor) -> None:
    model = small_model(autoencoder={"variational": True, "posterior_draws": 400})
    batch = model.context("b_s1", counts.numpy())
    fit_whitening(model, [batch], ONE_RANK)
    torch.manual_seed(0)
    (sequence,) = dynamics_stage(model, "fp32").prepare(batch)
    draws = sequence.targets_MBTL
    assert draws.shape == (400, 3, 20, 4)
    # what is read as history is a draw as well, so that steps are differences of two draws as in a rollout
    assert torch.equal(sequence.latent_BTL, draws[0])
    torch.testing.assert_close(draws.mean(dim=0), model.encode(batch), rtol=0, atol=0.25)
    flat = draws.flatten(0, 2)
    torch.testing.assert_close(torch.cov(flat.T), torch.eye(4), rtol=0, atol=0.05)
    steps = (draws[:, :, 1:] - draws[:, :, :-1]).flatten(0, 2)
    torch.testing.assert_close(steps.square().mean(dim=0).sqrt(), model.dynamics.increment_sd, rtol=0.05, atol=0)


def test_without_draws_stage_two_predicts_the_means(counts: torch.Tensor) -> None:
    for options in ({}, {"variational": True}):
        model = small_model(autoencoder=options)
        batch = model.context("b_s1", counts.numpy())
        fit_whitening(model, [batch], ONE_RANK)
        (sequence,) = dynamics_stage(model, "fp32").prepare(batch)
        assert sequence.targets_MBTL is None
        assert torch.equal(sequence.latent_BTL, model.encode(batch))
        covariance = torch.cov(sequence.latent_BTL.flatten(0, 1).T, correction=0)
        torch.testing.assert_close(covariance, torch.eye(4), rtol=0, atol=0.01)


@pytest.mark.parametrize("bins", [40, 400])
def test_in_bfloat16_stage_two_reads_what_a_rollout_reads(bins: int) -> None:
    """But for the rounding of the encoder: running means are differences of long sums, and are not to add to it."""
    counts = torch.poisson(torch.full((3, bins, 8), 0.5), generator=torch.Generator().manual_seed(1))
    model = small_model(history_scales=[1, 5, 20])
    batch = model.context("b_s1", counts.numpy())
    fit_whitening(model, [batch], ONE_RANK)
    with torch.autocast("cpu", torch.bfloat16):
        rounded_BTL = model.whitening(torch.randn(3, bins, 4))
        assert rounded_BTL.dtype == model.whitening.undo(rounded_BTL).dtype == torch.float32
    (half,), (whole,) = (dynamics_stage(model, precision).prepare(batch) for precision in ("bf16", "fp32"))
    encoder = float((half.latent_BTL - whole.latent_BTL).abs().max())
    with torch.autocast("cpu", torch.bfloat16):
        means = running_means(half.latent_BTL, [5, 20])
    assert float((means - running_means(whole.latent_BTL, [5, 20])).abs().max()) < 1.01 * encoder + 1e-5


def test_training_takes_draws(counts: torch.Tensor) -> None:
    model = small_model(autoencoder={"variational": True, "posterior_draws": 3})
    batch = model.context("b_s1", counts.numpy())
    stage = dynamics_stage(model, "bf16")
    loss, count, _ = stage(*stage.prepare(batch))
    loss.backward()
    assert int(count) == 60
    assert torch.isfinite(loss)
