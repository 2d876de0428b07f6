"""The parts of stage 1 against their formulas."""

import math

import numpy as np
import pytest
import torch

from neurochorus.models import LatentMoments, Whitening
from neurochorus.models.autoencoder import known_next, mean_of_next
from neurochorus.models.observation import Gaussian, Poisson, observation_for
from neurochorus.models.units import Table, read_in, read_out
from tests.models.conftest import small_model


def test_read_in_is_a_matrix_of_rows_whatever_the_session() -> None:
    signal, rows = torch.randn(3, 5, 4), torch.randn(3, 4, 6)
    torch.testing.assert_close(read_in(signal, rows), torch.einsum("btc,bcd->btd", signal, rows))
    torch.testing.assert_close(read_in(signal, rows[:1]), torch.einsum("btc,cd->btd", signal, rows[0]))
    latent = torch.randn(3, 5, 6)
    torch.testing.assert_close(read_out(latent, rows), torch.einsum("btl,bcl->btc", latent, rows))
    torch.testing.assert_close(read_out(latent, rows[:1]), torch.einsum("btl,cl->btc", latent, rows[0]))


def test_frozen_rows_get_no_gradient() -> None:
    table = Table(6, 3)
    table.frozen_rows = 4
    table(torch.tensor([[0, 2, 4, 5]])).sum().backward()
    assert table.weight.grad is not None
    assert table.weight.grad.sum(dim=1).tolist() == [0, 0, 0, 0, 3, 3]


def test_slow_gain_is_the_gamma_poisson_posterior_mean(counts: torch.Tensor) -> None:
    model = small_model()
    autoencoder = model.autoencoder
    units = autoencoder.units(model.context("b_s1", counts.numpy()).unit_rows_BC)
    strength = float(torch.nn.functional.softplus(autoencoder.gain_strength).detach())
    slow = autoencoder.slow_level(counts, units).detach().numpy()
    trial, unit = 1, 3
    rate, gain = float(units.mean_BC[0, unit]), float(units.gain_BC[0, unit].detach())
    for t in (0, 7, 19):
        spikes = float(counts[trial, : t + 1, unit].sum())
        expected = gain * math.log((spikes + strength * rate) / ((t + 1 + strength) * rate))
        assert slow[trial, t, unit] == pytest.approx(expected, abs=1e-4)


def test_future_means_and_their_mask() -> None:
    signal = torch.arange(12.0).reshape(1, 6, 2)
    means = mean_of_next(signal, 2).numpy()[0]
    np.testing.assert_allclose(means[:4], [(signal[0, t + 1] + signal[0, t + 2]).numpy() / 2 for t in range(4)])
    mask = torch.tensor([[True, True, True, True, True, False]])
    assert known_next(mask, 2).tolist() == [[True, True, True, False, False, False]]


def test_the_present_bin_is_not_explained_by_its_own_count(counts: torch.Tensor) -> None:
    """A unit whose rows are zero is predicted from its own past alone, so its present count has no say."""
    model = small_model()
    with torch.no_grad():
        row = model.registry.session("b_s1").row_of["u2"]
        model.autoencoder.read_in_rows.weight[row] = 0.0
    changed = counts.clone()
    changed[:, 9, 2] += 3.0
    one, other = (model.reconstruct(model.context("b_s1", c.numpy()))[:, :, 2] for c in (counts, changed))
    assert torch.equal(one[:, :10], other[:, :10])
    assert not torch.equal(one[:, 10], other[:, 10])


def test_loss_is_normalised_and_masked(counts: torch.Tensor) -> None:
    model = small_model()
    batch = model.context("b_s1", counts.numpy())
    batch.bin_mask_BT[:, 15:] = False
    loss, count, parts = model.autoencoder(batch)
    assert int(count) == 3 * 15
    assert float(sum(parts.values())) == pytest.approx(float(loss.detach()), rel=1e-6)
    short = model.context("b_s1", counts[:, :15].numpy())
    assert float(model.autoencoder(short)[0].detach()) == pytest.approx(float(loss.detach()), rel=1e-5)


def test_poisson_and_gaussian_losses_match_torch() -> None:
    log_rate, counts = torch.randn(2, 3, 4), torch.poisson(torch.ones(2, 3, 4))
    expected = torch.nn.functional.poisson_nll_loss(log_rate, counts, reduction="none")
    torch.testing.assert_close(Poisson.loss(log_rate, counts, torch.zeros(2, 4)), expected)
    log_sd, mean, value = torch.randn(2, 4) * 0.3, torch.randn(2, 3, 4), torch.randn(2, 3, 4)
    density = torch.distributions.Normal(mean, log_sd.exp().unsqueeze(1))
    torch.testing.assert_close(Gaussian.loss(mean, value, log_sd), -density.log_prob(value))
    with pytest.raises(ValueError, match="expected 'spikes' or 'continuous'"):
        observation_for("calcium")


def test_whitening_whitens_and_comes_back() -> None:
    torch.manual_seed(0)
    latents = torch.randn(50, 40, 5) @ torch.randn(5, 5) + torch.randn(5)
    mask = torch.rand(50, 40) < 0.8
    moments = LatentMoments(5)
    moments.add(latents[:20], mask[:20])
    moments.add(latents[20:], mask[20:])
    whitening = Whitening(5)
    moments.write_into(whitening)
    white = whitening(latents)[mask]
    np.testing.assert_allclose(np.cov(white.numpy().T, bias=True), np.eye(5), atol=1e-3)
    np.testing.assert_allclose(white.mean(dim=0).numpy(), 0, atol=1e-4)
    torch.testing.assert_close(whitening.undo(whitening(latents)), latents, rtol=1e-4, atol=1e-4)
    both = mask[:, 1:] & mask[:, :-1]
    steps = (whitening(latents)[:, 1:] - whitening(latents)[:, :-1])[both]
    np.testing.assert_allclose(whitening.increment_sd.numpy(), steps.square().mean(dim=0).sqrt().numpy(), rtol=1e-3)


def test_collapsed_latents_are_refused() -> None:
    moments = LatentMoments(2)
    moments.add(torch.zeros(4, 10, 2), torch.ones(4, 10, dtype=torch.bool))
    with pytest.raises(ValueError, match="has collapsed"):
        moments.write_into(Whitening(2))
