"""Nothing may see the future: changing bin t + 1 leaves everything up to t bit-identical."""

import numpy as np
import pytest
import torch

from neurochorus.models import TransformerConfig
from neurochorus.models.backbones.transformer import Transformer
from neurochorus.models.dynamics import CausalDynamics, LatentSequence
from neurochorus.models.dynamics.running_means import last_running_means, running_means
from tests.models.conftest import small_model

BIN = 11


def changed_after(counts: torch.Tensor, bin_: int) -> torch.Tensor:
    changed = counts.clone()
    changed[:, bin_ + 1 :] += 5.0
    return changed


@pytest.mark.parametrize(
    ("modality", "autoencoder"),
    [
        ("spikes", {}),
        ("continuous", {}),
        ("spikes", {"history_bins": 4, "rate": "softplus", "decoder_hidden": 8}),
        ("spikes", {"history_bins": 4, "observation": "negative_binomial", "variational": True}),
        ("continuous", {"history_bins": 4, "variational": True}),
    ],
)
def test_encoder_gain_and_reconstruction(counts: torch.Tensor, modality: str, autoencoder: dict[str, object]) -> None:
    model = small_model(modality=modality, autoencoder=autoencoder)
    one = model.context("b_s1", counts.numpy())
    other = model.context("b_s1", changed_after(counts, BIN).numpy())
    assert torch.equal(model.encode(one)[:, : BIN + 1], model.encode(other)[:, : BIN + 1])
    assert not torch.equal(model.encode(one)[:, BIN + 1], model.encode(other)[:, BIN + 1])
    units = model.autoencoder.units(one.unit_rows_BC)
    slow_one, slow_other = (model.autoencoder.slow_level(batch.signal_BTC, units) for batch in (one, other))
    assert torch.equal(slow_one[:, : BIN + 1], slow_other[:, : BIN + 1])
    assert not torch.equal(slow_one[:, BIN + 1], slow_other[:, BIN + 1])
    assert torch.equal(model.reconstruct(one)[:, : BIN + 1], model.reconstruct(other)[:, : BIN + 1])
    own_one, own_other = (model.autoencoder.own_past(batch.signal_BTC, units) for batch in (one, other))
    assert torch.equal(own_one[:, : BIN + 2], own_other[:, : BIN + 2])
    assert not torch.equal(own_one[:, BIN + 2], own_other[:, BIN + 2])


def test_an_encoder_that_sees_both_ways_does(counts: torch.Tensor) -> None:
    model = small_model(autoencoder={"causal": False, "history_bins": 4})
    one = model.context("b_s1", counts.numpy())
    other = model.context("b_s1", changed_after(counts, BIN).numpy())
    assert not torch.isclose(model.encode(one)[:, 0], model.encode(other)[:, 0]).all()
    units = model.autoencoder.units(one.unit_rows_BC)
    own_one, own_other = (model.autoencoder.own_past(batch.signal_BTC, units) for batch in (one, other))
    assert torch.equal(own_one[:, : BIN + 2], own_other[:, : BIN + 2])


def test_dynamics_read_only_the_past() -> None:
    dynamics = small_model(history_scales=[1, 4]).dynamics
    assert isinstance(dynamics, CausalDynamics)
    latents = torch.randn(2, 20, 4)
    changed = latents.clone()
    changed[:, BIN + 1 :] += 1.0

    def hidden(latent: torch.Tensor) -> torch.Tensor:
        return dynamics.hidden(LatentSequence.plain(latent))

    # what predicts bin t + 1 has read bins up to t
    assert torch.equal(hidden(latents)[:, : BIN + 2], hidden(changed)[:, : BIN + 2])
    assert not torch.equal(hidden(latents)[:, BIN + 2], hidden(changed)[:, BIN + 2])


def test_attention_window_forgets() -> None:
    torch.manual_seed(0)
    transformer = Transformer(TransformerConfig(width=16, blocks=1, heads=2, attention_window=3)).eval()
    tokens = torch.randn(1, 10, 16)
    changed = tokens.clone()
    changed[:, 0] += 1.0
    same = (transformer(tokens) == transformer(changed)).all(dim=-1)[0]
    assert same.tolist() == [False] * 3 + [True] * 7


def test_running_means_match_numpy() -> None:
    latents = torch.randn(2, 9, 3)
    means = running_means(latents, [1, 4]).numpy()
    expected = np.stack([latents[:, max(0, t - 3) : t + 1].numpy().mean(axis=1) for t in range(9)], axis=1)
    np.testing.assert_allclose(means[:, :, 3:], expected, atol=1e-6)
    np.testing.assert_array_equal(means[:, :, :3], latents.numpy())
    np.testing.assert_allclose(last_running_means(latents[:, -4:], [1, 4]).numpy(), means[:, -1], atol=1e-6)
