"""The prior of rows in the loss: what it costs, where it has its minimum, and that nothing of it is saved."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from neurochorus.data_shards.batch import Batch
from neurochorus.models import NeuralModel
from neurochorus.models.row_prior import RowPrior
from neurochorus.pretrain.adaptation.known_rows import KnownRows, known_rows, row_prior
from tests.models.conftest import entry, small_model

UNITS = 6


def with_new_session(strength: float = 1.0, train_bins: int = 60) -> NeuralModel:
    """A model with a prior of the rows of session c_s1."""
    model = small_model()
    first, known = model.registry.total_rows, known_rows(model)
    new = replace(entry("c_s1", "c", UNITS), train_bins=train_bins)
    model.append_sessions([new])
    mean = torch.full((UNITS,), 0.2)
    model.autoencoder.row_prior = row_prior(
        model,
        known,
        first,
        mean.log().numpy(),
        [""] * UNITS,
        mean.log(),
        0.7,
        np.full(UNITS, float(train_bins)),
        strength,
    )
    return model


def batch_of(model: NeuralModel, session: str, trials: int = 3, bins: int = 20) -> Batch:
    units = len(model.registry.session(session).unit_ids)
    return model.context(session, np.random.default_rng(0).poisson(0.5, (trials, bins, units)))


def part(model: NeuralModel, session: str, **size: int) -> float:
    model.train()
    return float(model.autoencoder(batch_of(model, session, **size))[2]["row_prior"])


def test_a_pass_over_the_train_bins_costs_the_negative_log_prior() -> None:
    model = with_new_session(train_bins=60)
    own, prior = model.autoencoder, model.autoencoder.row_prior
    assert prior is not None
    cost = 0.0
    tables = {
        "read_in": own.read_in_rows.weight,
        "read_out": own.read_out_rows.weight,
        "gain": own.unit_offsets.weight[:, 1:2],
    }
    for name, table in tables.items():
        mean, precision = prior.get_buffer(f"mean_{name}"), prior.get_buffer(f"precision_{name}")
        full = precision if precision.ndim == 2 else precision.diag()
        away = table[prior.first_row :].detach() - mean
        normal = torch.distributions.MultivariateNormal(torch.zeros(len(full)), precision_matrix=full)
        cost += float((normal.log_prob(torch.zeros(len(full))) - normal.log_prob(away)).sum())
    away = own.unit_offsets.weight[prior.first_row :, 0].detach() - math.log(0.2)
    cost += float(0.7 * (away.exp() - away - 1).sum())
    config = model.config.autoencoder
    counted = config.present_weight + sum(config.future_weights.values())
    scale = float(own.unit_mean[prior.first_row :].sum())
    assert part(model, "c_s1", trials=3, bins=20) == pytest.approx(counted * cost / scale, rel=1e-4)  # 60 bins


def test_the_gamma_prior_and_poisson_counts_meet_at_the_posterior_mean() -> None:
    spikes, bins, pseudo, mean = 3.0, 50.0, 0.7, 0.2
    bias = torch.zeros(1, requires_grad=True)
    prior = RowPrior(1, {}, {}, torch.tensor([math.log(mean)]), pseudo, torch.tensor([bins]), gamma=True)
    optimizer = torch.optim.LBFGS([bias], max_iter=100, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        value = (bins * bias.exp() - spikes * bias + prior.pseudo_spikes * prior._of_bias(bias - prior.bias)).sum()
        value.backward()
        return value

    optimizer.step(loss)  # type: ignore[arg-type]
    assert float(bias.exp()) == pytest.approx((spikes + pseudo) / (bins + pseudo / mean), rel=1e-4)


def test_only_new_rows_bear_it_and_only_in_training() -> None:
    model = with_new_session()
    assert part(model, "a_s1") == 0.0
    assert part(model, "c_s1") > 0.0
    model.eval()
    assert "row_prior" not in model.autoencoder(batch_of(model, "c_s1"))[2]
    model.train()
    model.autoencoder(batch_of(model, "a_s1"))[0].backward()
    gradients = {name: parameter.grad is not None for name, parameter in model.autoencoder.named_parameters()}
    model.zero_grad()
    model.autoencoder(batch_of(model, "c_s1"))[0].backward()
    assert gradients == {name: p.grad is not None for name, p in model.autoencoder.named_parameters()}


def test_strength_multiplies_it_and_it_is_no_part_of_the_state() -> None:
    once, twice = (with_new_session(strength) for strength in (1.0, 2.0))
    twice.load_state_dict(once.state_dict())
    assert part(twice, "c_s1") == pytest.approx(2 * part(once, "c_s1"))
    assert not [name for name in once.state_dict() if "row_prior" in name]


def test_what_known_rows_say_of_new_ones() -> None:
    generator = np.random.default_rng(0)
    regions = [("A", "B")[i % 2] for i in range(600)]
    log_rate = generator.normal(-2, 1, 600)
    mixing = np.array([[0.3, 0.1], [0.0, 0.2]])
    shift = np.array([[1.0, 0.0] if region == "A" else [-1.0, 0.5] for region in regions])
    rows = shift + 0.4 * (log_rate[:, None] + 2) * [1, 0] + generator.normal(size=(600, 2)) @ mixing
    known = KnownRows.of(rows, log_rate, regions, full=True)
    expected = known.expected(np.array([-1.0, -2.0, -2.0]), ["A", "B", "unheard of"])
    np.testing.assert_allclose(expected, [[1.4, 0.0], [-1.0, 0.5], [0.0, 0.25]], atol=0.06)
    np.testing.assert_allclose(np.linalg.inv(known.precision(["A"])), mixing.T @ mixing, atol=0.02)
    wide = np.linalg.inv(known.precision(["unheard of"]))
    assert wide[0, 0] > 1.0  # how regions differ is part of what is not known


def test_few_units_give_variances_only() -> None:
    rows = np.random.default_rng(0).normal(size=(12, 4))
    assert KnownRows.of(rows, np.zeros(12), [""] * 12, full=True).covariance.ndim == 1
