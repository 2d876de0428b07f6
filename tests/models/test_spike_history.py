"""Spike history: a known filter is recovered, and rollouts read the counts that they drew."""

import numpy as np
import pytest
import torch

from neurochorus.models import NeuralModel
from neurochorus.models.autoencoder import Autoencoder, AutoencoderConfig
from neurochorus.models.backbones.transformer import TransformerConfig
from neurochorus.models.observations import Gaussian, Observation
from neurochorus.models.observations.spike_history import filtered_past
from neurochorus.models.observing import observe, observe_each
from neurochorus.models.rollout import row_generators
from tests.models.conftest import entry, small_model

HISTORY = {"history_bins": 3, "history_cap": 2.0}
OBSERVATIONS = [("spikes", "auto"), ("spikes", "negative_binomial"), ("continuous", "auto")]


def model_with_history(modality: str = "spikes", observation: str = "auto", **more: object) -> NeuralModel:
    model = small_model("energy", modality, autoencoder={**HISTORY, "observation": observation, **more})
    assert model.autoencoder.history_rows is not None
    with torch.no_grad():
        model.autoencoder.history_rows.weight[1:] += 0.5 * torch.randn(13, 3)
    return model


@pytest.mark.parametrize("rows", [1, 4])
def test_the_filter_reads_each_units_own_last_bins(rows: int) -> None:
    past, weights = torch.randn(4, 9, 5), torch.randn(rows, 5, 3)
    expected = torch.zeros(4, 9, 5)
    for t in range(9):
        for lag in range(1, min(3, t) + 1):
            expected[:, t] += weights[:, :, lag - 1] * past[:, t - lag]
    torch.testing.assert_close(filtered_past(past, weights), expected)
    assert filtered_past(past[:, :0], weights).shape == (4, 0, 5)
    changed = past.clone()
    changed[:, 6] += 1.0
    same = (filtered_past(past, weights) == filtered_past(changed, weights)).all(dim=2).all(dim=0)
    assert same.tolist() == [True] * 7 + [False] * 2


def test_a_known_refractory_filter_is_recovered() -> None:
    """Spikes of a GLM with a constant drive: the maximum of the likelihood is at its filter and its base rate."""
    true_filter, base = torch.tensor([-3.0, -1.0, 0.6]), 0.4
    rng = np.random.default_rng(0)
    counts = np.zeros((40, 500, 2))
    for t in range(3, 500):
        drive = sum(float(w) * np.minimum(counts[:, t - k - 1], 2.0) for k, w in enumerate(true_filter))
        counts[:, t] = rng.poisson(base * np.exp(drive))
    mean = counts.mean(axis=(0, 1))
    config = AutoencoderConfig(
        latents=1,
        encoder=TransformerConfig(width=4, blocks=1, heads=1, dropout=0.0),
        future_weights={},
        present_weight=1.0,
        unit_dropout=0.0,
        latent_dropout=0.0,
        slow_gain=False,
        burn_in_bins=3,
        **HISTORY,  # type: ignore[arg-type]
    )
    padded = torch.tensor([0.0, *mean])
    autoencoder = Autoencoder(config, "spikes", padded, padded.sqrt(), sessions=1)
    autoencoder.requires_grad_(False)
    autoencoder.read_out_rows.weight.zero_()
    assert autoencoder.history_rows is not None
    fitted = [autoencoder.history_rows.weight, autoencoder.unit_offsets.weight]
    for parameter in fitted:
        parameter.requires_grad_(True)
    model = small_model()
    batch = model.context("a_s1", np.concatenate((counts, counts, counts[:, :, :1]), axis=2))
    batch.signal_BTC, batch.unit_rows_BC = batch.signal_BTC[:, :, :2], torch.tensor([[1, 2]])
    batch.session_B = torch.ones_like(batch.session_B)
    optimizer = torch.optim.LBFGS(fitted, max_iter=60, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        total, count, _ = autoencoder(batch)
        (total / count).backward()
        return total / count

    optimizer.step(loss)  # type: ignore[arg-type]
    found = autoencoder.history_rows.weight[1:].detach()
    # lag 1 is pinned by the few spikes that follow a spike at once
    np.testing.assert_allclose(found.numpy(), np.tile(true_filter, (2, 1)), atol=0.25)
    np.testing.assert_allclose(found[:, 1:].numpy(), np.tile(true_filter[1:], (2, 1)), atol=0.1)
    # without the filter the decoder gives the rate at an average past
    average = found @ torch.ones(3) * torch.tensor(mean).float().clamp(max=2.0)
    rate = (autoencoder.unit_offsets.weight[1:, 0].detach() - average).exp()
    np.testing.assert_allclose(rate.numpy(), base, rtol=0.05)


@pytest.mark.parametrize(("modality", "observation"), OBSERVATIONS)
@pytest.mark.parametrize("bins", [0, 2, 20])
def test_observing_equals_a_plain_loop(counts: torch.Tensor, modality: str, observation: str, bins: int) -> None:
    model = model_with_history(modality, observation)
    autoencoder, samples, horizon = model.autoencoder, 2, 6
    context = model.context("b_s1", counts[:, :bins].numpy())
    units = autoencoder.units(context.unit_rows_BC)
    latents = torch.randn(samples, 3, horizon, 4)
    generators = row_generators(4, context.sample_ids, samples)
    with torch.no_grad():
        rates, made = observe(autoencoder, latents, units, context.signal_BTC, generators)
        assert made is not None
        generators = row_generators(4, context.sample_ids, samples)
        weights = units.history_BCK[0]
        for row in range(3):
            slow = autoencoder.slow_level(context.signal_BTC, units)[row, -1] if bins else torch.zeros(8)
            for sample in range(samples):
                generator = generators[row * samples + sample]
                noise = autoencoder.observation.noise(horizon, units.shape_BC[0], generator)
                own = [*context.signal_BTC[row].float()]
                for t in range(horizon):
                    decoded = autoencoder.decode(latents[sample, row, t][None, None], units)[0, 0] + slow
                    for lag in range(1, min(3, len(own)) + 1):
                        decoded += weights[:, lag - 1] * autoencoder.past(own[-lag][None, None], units)[0, 0]
                    rate = autoencoder.mean(decoded[None, None], units)
                    own.append(
                        autoencoder.observation.outcome(rate, noise[:, t][:, None, None], units.shape_BC, units.sd_BC)[
                            0, 0
                        ]
                    )
                    torch.testing.assert_close(rates[sample, row, t], rate[0, 0], rtol=1e-4, atol=1e-5)
                    torch.testing.assert_close(made[sample, row, t], own[-1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("modality", "observation"), OBSERVATIONS)
def test_observing_what_was_recorded_is_reconstruction(
    counts: torch.Tensor, modality: str, observation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the counts that are drawn are those recorded, the rates are those of the reconstruction."""
    model = model_with_history(modality, observation, slow_gain=False)
    whole = model.context("b_s1", counts.numpy())
    context = model.context("b_s1", counts[:, :12].numpy())
    recorded = iter(whole.signal_BTC[:, 12:].float().unbind(dim=1))

    def as_recorded(_: Observation, mean_BTC: torch.Tensor, *__: torch.Tensor) -> torch.Tensor:
        return next(recorded).unsqueeze(1).expand_as(mean_BTC)

    monkeypatch.setattr(type(model.autoencoder.observation), "outcome", as_recorded)
    units = model.autoencoder.units(whole.unit_rows_BC)
    with torch.no_grad():
        latents = model.autoencoder.encode(whole.signal_BTC, units, whole.session_B)[:, 12:]
        generators = row_generators(0, context.sample_ids, 1)
        rates, _ = observe(model.autoencoder, latents[None], units, context.signal_BTC, generators)
    torch.testing.assert_close(rates[0], model.reconstruct(whole)[:, 12:], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("modality", "observation"), OBSERVATIONS)
@pytest.mark.parametrize("bins", [0, 20])
def test_a_sample_does_not_depend_on_the_batch_around_it(
    counts: torch.Tensor, modality: str, observation: str, bins: int
) -> None:
    model = model_with_history(modality, observation)
    together = model.context("b_s1", counts[:, :bins].numpy())
    alone = model.context("b_s1", counts[1:2, :bins].numpy())
    alone.sample_ids = together.sample_ids[1:2]
    many = model.rollout(together, horizon=5, samples=3, seed=7)
    one = model.rollout(alone, horizon=5, samples=2, seed=7)
    torch.testing.assert_close(one.rates[:, 0], many.rates[:2, 1], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(one.counts[:, 0], many.counts[:2, 1], rtol=1e-4, atol=1e-5)
    assert not torch.equal(one.counts, model.rollout(alone, horizon=5, samples=2, seed=8).counts)
    mean, _ = model.forecast(together, horizon=5, samples=3, seed=7)
    torch.testing.assert_close(mean, many.expected_rate)


def test_one_sample_after_the_other_gives_the_same(counts: torch.Tensor) -> None:
    model = model_with_history()
    context = model.context("b_s1", counts.numpy())
    units = model.autoencoder.units(context.unit_rows_BC)
    latents = torch.randn(4, 3, 5, 4)

    def generators() -> list[torch.Generator]:
        return row_generators(1, context.sample_ids, 4)

    with torch.no_grad():
        rates, counted = observe(model.autoencoder, latents, units, context.signal_BTC, generators(), want_counts=False)
        each = list(observe_each(model.autoencoder, latents, units, context.signal_BTC, generators()))
    assert counted is None
    torch.testing.assert_close(torch.stack(each), rates)


def test_without_history_no_chance_is_spent_on_rates(counts: torch.Tensor) -> None:
    model = small_model()
    context = model.context("b_s1", counts.numpy())
    units = model.autoencoder.units(context.unit_rows_BC)
    generators = row_generators(1, context.sample_ids, 2)
    state = [generator.get_state() for generator in generators]
    with torch.no_grad():
        observe(model.autoencoder, torch.randn(2, 3, 5, 4), units, context.signal_BTC, generators, want_counts=False)
    assert all(torch.equal(one, other.get_state()) for one, other in zip(state, generators, strict=True))


def test_history_starts_as_nothing_and_new_units_too() -> None:
    torch.manual_seed(0)
    model = model_with_history()
    before = model.autoencoder.history_rows
    assert before is not None
    known = before.weight.detach().clone()
    model.append_sessions([entry("c_s1", "c", 6)])
    assert torch.equal(before.weight[:14].detach(), known)
    assert torch.equal(before.weight[14:].detach(), torch.zeros(6, 3))
    fresh = Autoencoder(AutoencoderConfig(history_bins=4), "spikes", torch.rand(9), torch.rand(9), 1)
    assert fresh.history_rows is not None
    assert not fresh.history_rows.weight.any()


def test_counts_above_the_cap_and_far_z_scores_read_as_the_cap() -> None:
    model = model_with_history()
    units = model.autoencoder.units(torch.tensor([[1, 2]]))
    past = model.autoencoder.past(torch.tensor([[[9.0, 0.0]]]), units)
    torch.testing.assert_close(past, torch.tensor([[[2.0, 0.0]]]) - units.mean_BC)
    z_scores = Gaussian().past(torch.tensor([[[9.0, -9.0]]]), torch.zeros(1, 2), torch.ones(1, 2), 5.0)
    assert z_scores.flatten().tolist() == [5.0, -5.0]
