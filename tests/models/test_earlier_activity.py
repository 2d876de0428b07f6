"""Where the slow gain starts when what a unit did in earlier samples is known."""

import math

import numpy as np
import pytest
import torch

from neurochorus.data_shards.earlier import Earlier
from neurochorus.models import AutoencoderConfig
from tests.models.conftest import entry, small_model

MEMORY = {"earlier_memory_bins": 100.0}


@pytest.fixture
def earlier() -> Earlier:
    generator = np.random.default_rng(3)
    bins = np.array([0.0, 40.0, 90.0], dtype=np.float32)
    return Earlier(generator.poisson(0.3 * bins[:, None], (3, 8)).astype(np.float32), bins)


def test_it_starts_at_the_posterior_mean_of_the_earlier_rate(counts: torch.Tensor, earlier: Earlier) -> None:
    model = small_model(autoencoder=MEMORY)
    own = model.autoencoder
    batch = model.context("b_s1", counts.numpy(), earlier=earlier)
    units = own.units_of(batch)
    slow = own.slow_level(batch.signal_BTC, units).detach().numpy()
    assert own.earlier_strength is not None
    assert own.earlier_rows is not None
    known = float(own.earlier_strength.detach().exp())
    inner = float(torch.nn.functional.softplus(own.gain_strength.detach()))
    trial, unit, t = 2, 5, 7
    rate, gain = float(units.mean_BC[0, unit]), float(units.gain_BC[0, unit].detach())
    share = float(own.earlier_rows(batch.unit_rows_BC)[0, unit, 0].detach())
    start = (earlier.sums_NC[trial, unit] + known * rate) / (earlier.bins_N[trial] + known)
    spikes = float(counts[trial, : t + 1, unit].sum())
    expected = gain * math.log((spikes + inner * start) / ((t + 1 + inner) * start)) + share * math.log(start / rate)
    assert slow[trial, t, unit] == pytest.approx(expected, abs=1e-4)
    # the first bin knows of no other in the window, but of what came before it
    first = own.own_past(batch.signal_BTC, units).detach().numpy()[trial, 0, unit]
    assert first == pytest.approx(share * math.log(start / rate), abs=1e-4)


def test_z_scores_start_at_their_posterior_mean(earlier: Earlier) -> None:
    model = small_model(modality="continuous", autoencoder=MEMORY)
    own = model.autoencoder
    signal = np.random.default_rng(0).normal(0.3, 0.4, (3, 20, 8)).astype(np.float32)
    units = own.units_of(model.context("b_s1", signal, earlier=earlier))
    assert own.earlier_strength is not None
    mean, sd = units.mean_BC[0].numpy(), units.sd_BC[0].numpy()
    z_sum = (earlier.sums_NC - earlier.bins_N[:, None] * mean) / sd
    expected = z_sum / (earlier.bins_N[:, None] + float(own.earlier_strength.detach().exp()))
    np.testing.assert_allclose(units.start_BC.detach().numpy(), expected, rtol=1e-4, atol=1e-5)


def test_a_rollout_starts_from_it_and_what_is_not_known_changes_nothing(counts: torch.Tensor, earlier: Earlier) -> None:
    model = small_model(autoencoder=MEMORY)
    nothing = Earlier(np.zeros((3, 8), dtype=np.float32), np.zeros(3, dtype=np.float32))
    for bins in (0, 20):
        signal = counts[:, :bins].numpy()
        plain, empty, known = (
            model.rollout(model.context("b_s1", signal, earlier=given), 4, 2, seed=1)
            for given in (None, nothing, earlier)
        )
        assert torch.equal(plain.rates, empty.rates)
        assert torch.equal(plain.latents, known.latents)  # the encoder does not read it
        assert torch.equal(plain.rates[:, 0], known.rates[:, 0])  # nothing came before the first
        assert not torch.isclose(plain.rates[:, 1:], known.rates[:, 1:], rtol=1e-3).all(dim=-1).any()


def test_units_in_another_order_and_some_of_them_give_the_same(counts: torch.Tensor, earlier: Earlier) -> None:
    model = small_model(autoencoder=MEMORY)
    order = torch.randperm(8, generator=torch.Generator().manual_seed(0)).numpy()
    ids = model.registry.session("b_s1").unit_ids
    moved = Earlier(earlier.sums_NC[:, order], earlier.bins_N)
    straight = model.context("b_s1", counts.numpy(), earlier=earlier)
    permuted = model.context("b_s1", counts.numpy()[..., order], [ids[i] for i in order], earlier=moved)
    straight_rate, permuted_rate = (
        model.reconstruct(batch)[..., o] for batch, o in ((straight, order), (permuted, range(8)))
    )
    torch.testing.assert_close(straight_rate, permuted_rate)


def test_its_parameters_have_gradients_whether_or_not_it_is_known(counts: torch.Tensor, earlier: Earlier) -> None:
    for given in (None, earlier):
        model = small_model(autoencoder=MEMORY).train()
        loss, count, _ = model.autoencoder(model.context("b_s1", counts.numpy(), earlier=given))
        (loss / count).backward()
        assert model.autoencoder.earlier_rows is not None
        gradients = [model.autoencoder.earlier_strength.grad, model.autoencoder.earlier_rows.weight.grad]  # type: ignore[union-attr]
        assert all(gradient is not None for gradient in gradients)
        assert all(bool(gradient.any()) == (given is not None) for gradient in gradients if gradient is not None)


def test_imputation_reads_it_row_by_row(counts: torch.Tensor, earlier: Earlier) -> None:
    model = small_model(autoencoder=MEMORY)
    observed = torch.ones(3, 20, 8, dtype=torch.bool)
    observed[:, :, 2] = False
    together = model.impute(model.context("b_s1", counts.numpy(), earlier=earlier), observed, samples=4)
    for row in (1, 2):
        batch = model.context("b_s1", counts[row : row + 1].numpy(), earlier=earlier[row : row + 1])
        batch.sample_ids = [f"b_s1-{row:06d}"]
        alone = model.impute(batch, observed[row : row + 1], samples=4)
        torch.testing.assert_close(alone.rates[:, 0], together.rates[:, row])
    plain = model.impute(model.context("b_s1", counts.numpy()), observed, samples=4)
    assert not torch.allclose(plain.rates[:, 1], together.rates[:, 1])


def test_new_units_start_with_the_usual_share() -> None:
    model = small_model(autoencoder=MEMORY)
    table = model.autoencoder.earlier_rows
    assert table is not None
    usual = table.weight[1:].mean()
    model.append_sessions([entry("c_s1", "c", 3)])
    torch.testing.assert_close(model.autoencoder.earlier_rows.weight[-3:, 0], usual.expand(3))  # type: ignore[union-attr]


def test_refusals(counts: torch.Tensor, earlier: Earlier) -> None:
    model = small_model(autoencoder=MEMORY)
    with pytest.raises(ValueError, match=r"'b_s1': earlier activity of shape \(2, 8\); expected \(3, 8\)"):
        model.context("b_s1", counts.numpy(), earlier=earlier[:2])
    (problem,) = AutoencoderConfig(earlier_memory_bins=-1).problems()
    assert problem == "earlier_memory_bins: expected null or a positive number, found -1"
    (problem,) = AutoencoderConfig(earlier_memory_bins=100.0, slow_gain=False).problems()
    assert problem == "earlier_memory_bins: it is where the slow gain starts; set slow_gain: true"
