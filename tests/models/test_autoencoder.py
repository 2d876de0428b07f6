"""The parts of stage 1 against their formulas."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from neurochorus.data_shards.settings import SettingsError, parse_settings
from neurochorus.models import AutoencoderConfig, LatentMoments, Whitening, load, save
from neurochorus.models.autoencoder import Autoencoder
from neurochorus.models.autoencoder_loss import hide
from neurochorus.models.latent_penalties import mean_square, roughness
from neurochorus.models.posterior import Posterior
from neurochorus.models.time_windows import known_next, mean_of_next
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


def test_penalties_are_ldns_sums_on_another_scale() -> None:
    """LDNS adds [l2 sum z^2 + td sum_k 1/(1+k) sum (z_t - z_{t+k})^2] / (B C T) to the mean loss of B C T entries."""
    latents, mask = torch.randn(3, 12, 4), torch.ones(3, 12, dtype=torch.bool)
    ldns_l2 = latents.square().sum()
    ldns_td = sum((latents[:, k:] - latents[:, :-k]).square().sum() / (1 + k) for k in range(1, 6))
    torch.testing.assert_close(4 * mean_square(latents, mask), ldns_l2)
    torch.testing.assert_close(4 * roughness(latents, mask), torch.as_tensor(ldns_td))
    mask[1, 7:] = False
    short = roughness(latents[1:2, :7], mask[1:2, :7])
    torch.testing.assert_close(roughness(latents[1:2], mask[1:2]), short)
    assert float(roughness(latents[:, :1], mask[:, :1])) == 0.0


def test_a_pointwise_layer_starts_as_the_linear_decoder(counts: torch.Tensor) -> None:
    made = []
    for hidden in (0, 16):
        torch.manual_seed(1)
        config = AutoencoderConfig(latents=4, decoder_hidden=hidden)
        made.append(Autoencoder(config, "spikes", torch.rand(9), torch.rand(9), 1))
    assert made[1].decoder is not None
    made[1].load_state_dict(made[0].state_dict(), strict=False)
    latents, units = torch.randn(2, 5, 4), [one.units(torch.arange(1, 9)[None]) for one in made]
    assert torch.equal(made[0].decode(latents, units[0]), made[1].decode(latents, units[1]))
    with torch.no_grad():
        made[1].decoder.contract.weight.normal_()
    assert not torch.allclose(made[0].decode(latents, units[0]), made[1].decode(latents, units[1]))


def test_divergence_is_that_of_torch() -> None:
    mean, log_sd = torch.randn(2, 6, 3), torch.randn(2, 6, 3) * 0.7
    posterior = Posterior(mean, log_sd)
    expected = torch.distributions.kl_divergence(
        torch.distributions.Normal(mean, log_sd.exp()), torch.distributions.Normal(0.0, 1.0)
    )
    torch.testing.assert_close(posterior.divergence(), expected)
    many = torch.stack([posterior.draw() for _ in range(4000)])
    torch.testing.assert_close(many.mean(dim=0), mean, rtol=0, atol=0.3)
    torch.testing.assert_close(many.var(dim=0) / posterior.variance(), torch.ones_like(mean), rtol=0, atol=0.15)
    assert Posterior(mean).draw() is mean
    with pytest.raises(ValueError, match="variational: true"):
        Posterior(mean).divergence()


def test_the_loss_of_a_variational_encoder(counts: torch.Tensor) -> None:
    """Divergences below the clamp cost the clamp; only training draws; what is decoded in use is the mean."""
    model = small_model(autoencoder={"variational": True, "kl_weight": 0.5, "kl_clamp": 1e3, "unit_dropout": 0.0})
    batch = model.context("b_s1", counts.numpy())
    batch.bin_mask_BT[:, 15:] = False
    _, _, parts = model.autoencoder(batch)
    assert float(parts["divergence"]) == pytest.approx(0.5 * 1e3 * 4 * 3 * 15, rel=1e-5)
    present = [float(model.autoencoder(batch)[2]["present"]) for _ in range(2)]
    assert present[0] == present[1]
    model.autoencoder.train()
    assert len({float(model.autoencoder(batch)[2]["present"]) for _ in range(3)}) == 3
    free = small_model(autoencoder={"variational": True, "kl_weight": 0.5, "kl_clamp": 0.0})
    units = free.autoencoder.units(batch.unit_rows_BC)
    posterior = free.autoencoder.posterior(batch.signal_BTC, units, batch.session_B)
    expected = 0.5 * (posterior.divergence().sum(dim=-1) * batch.bin_mask_BT).sum()
    torch.testing.assert_close(free.autoencoder(batch)[2]["divergence"], expected.detach())
    assert torch.equal(free.autoencoder.encode(batch.signal_BTC, units, batch.session_B), posterior.mean_BTL)


def test_an_encoder_that_sees_both_ways_does_not_see_padding(counts: torch.Tensor) -> None:
    model = small_model(autoencoder={"causal": False})
    short = model.context("b_s1", counts[:, :15].numpy())
    padded = model.context("b_s1", counts.numpy())
    padded.bin_mask_BT[:, 15:] = False
    torch.testing.assert_close(model.encode(padded)[:, :15], model.encode(short), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(model.reconstruct(padded)[:, :15], model.reconstruct(short), rtol=1e-4, atol=1e-5)
    losses = [float(model.autoencoder(batch)[0].detach()) for batch in (short, padded)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_a_model_that_knows_the_future_does_not_forecast(counts: torch.Tensor, tmp_path: Path) -> None:
    model = load(save(small_model(autoencoder={"causal": False}), tmp_path / "export"))
    context, nothing = (model.context("b_s1", part.numpy()) for part in (counts, counts[:, :0]))
    for use in (model.rollout, model.forecast):
        with pytest.raises(ValueError, match=r"trained with autoencoder.causal: false.* cannot forecast"):
            use(context, 3, 2)
    assert model.rollout(nothing, 3, 2).counts.shape == (2, 3, 3, 8)
    assert model.forecast(nothing, 3, 2)[0].shape == (3, 3, 8)
    assert model.reconstruct(context).shape == (3, 20, 8)
    card = (tmp_path / "export" / "README.md").read_text()
    assert "an autoencoder that sees both ways" in card
    assert "It cannot forecast" in card


def test_settings_that_cannot_work_are_named() -> None:
    with pytest.raises(SettingsError) as caught:
        parse_settings(
            AutoencoderConfig,
            {"history_bins": -1, "history_cap": 0, "posterior_draws": 8, "kl_clamp": -1, "decoder_hidden": -2},
            "test",
        )
    for name in ("history_bins", "history_cap", "posterior_draws: 8 draws", "kl_clamp", "decoder_hidden"):
        assert name in str(caught.value)


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


def test_whitening_of_draws_counts_their_variance_in() -> None:
    """The moments of independent draws, without drawing: covariance and steps gain the mean variance."""
    torch.manual_seed(0)
    means, sds = torch.randn(30, 20, 3).cumsum(dim=1) * 0.3, torch.rand(30, 20, 3) + 0.2
    mask = torch.rand(30, 20) < 0.9
    exact, drawn = LatentMoments(3), LatentMoments(3)
    exact.add(means, mask, sds.square())
    for _ in range(200):
        drawn.add(means + sds * torch.randn_like(means), mask)
    made = [Whitening(3), Whitening(3)]
    exact.write_into(made[0])
    drawn.write_into(made[1])
    for name in ("mean", "matrix", "increment_sd"):
        torch.testing.assert_close(getattr(made[0], name), getattr(made[1], name), rtol=0.02, atol=0.02)


def test_collapsed_latents_are_refused() -> None:
    moments = LatentMoments(2)
    moments.add(torch.zeros(4, 10, 2), torch.ones(4, 10, dtype=torch.bool))
    with pytest.raises(ValueError, match="has collapsed"):
        moments.write_into(Whitening(2))


def test_what_the_data_hide_is_hidden_from_the_encoder_and_scored_alone(counts: torch.Tensor) -> None:
    """As augment.coordinated_dropout marks it; in evaluation nothing is hidden."""
    model = small_model(autoencoder={"unit_dropout": 0.0, "latent_dropout": 0.0}).train()
    batch = model.context("b_s1", counts.numpy())
    hidden_BTC = torch.rand(counts.shape, generator=torch.Generator().manual_seed(0)) < 0.3
    marked = replace(batch, hidden_BTC=hidden_BTC)
    seen, scored = hide(model.autoencoder, marked)
    assert seen is not None
    assert scored is not None
    assert torch.equal(seen == 0, hidden_BTC)
    assert torch.equal(scored > 0, hidden_BTC)
    assert seen.mean().item() == pytest.approx(1.0, rel=1e-5)
    assert scored.mean().item() == pytest.approx(1.0, rel=1e-5)
    whole, part = (float(model.autoencoder(one)[2]["present"]) for one in (batch, marked))
    assert whole != pytest.approx(part)
    model.eval()
    assert torch.equal(model.autoencoder(marked)[0], model.autoencoder(batch)[0])
