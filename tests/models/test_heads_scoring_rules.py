"""Scoring rules against scoringrules, and what makes them rules: fair, and least at the truth."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import scoringrules
import torch
from torch import Tensor

from neurochorus.models.heads import energy_score_loss
from neurochorus.models.heads.scoring_rules import MOST_PAIRS, crps_loss, kernel_score_loss, variogram_score_loss

Rule = Callable[[Tensor, Tensor], Tensor]
RULES: dict[str, Rule] = {
    "energy": energy_score_loss,
    "energy, beta 0.5": lambda samples, target: energy_score_loss(samples, target, beta=0.5),
    "energy, beta 1.5": lambda samples, target: energy_score_loss(samples, target, beta=1.5),
    "gaussian kernel": lambda samples, target: kernel_score_loss(samples, target, "gaussian", [0.5, 1.0]),
    "laplace kernel": lambda samples, target: kernel_score_loss(samples, target, "laplace", [0.5, 1.0]),
    "crps": crps_loss,
    "variogram": variogram_score_loss,
}
every_rule = pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
counts = pytest.mark.parametrize("samples", [2, 8])


def drawn_and_target(samples: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randn(samples, 6, 5, 4, generator=generator, dtype=torch.float64)
    return drawn, torch.randn(6, 5, 4, generator=generator, dtype=torch.float64)


@counts
def test_energy_loss_is_twice_the_fair_energy_score(samples: int) -> None:
    drawn, target = drawn_and_target(samples)
    theirs = scoringrules.es_ensemble(target.numpy(), drawn.numpy(), m_axis=0, v_axis=-1, estimator="fair")
    np.testing.assert_allclose(energy_score_loss(drawn, target).numpy(), 2 * np.asarray(theirs), rtol=1e-10)


@counts
def test_crps_loss_is_twice_the_fair_crps_averaged_over_channels(samples: int) -> None:
    drawn, target = drawn_and_target(samples)
    theirs = scoringrules.crps_ensemble(target.numpy(), drawn.numpy(), m_axis=0, estimator="fair")
    np.testing.assert_allclose(crps_loss(drawn, target).numpy(), 2 * np.asarray(theirs).mean(axis=-1), atol=1e-12)


@counts
def test_gaussian_kernel_loss_is_twice_the_fair_kernel_score(samples: int) -> None:
    drawn, target = drawn_and_target(samples)
    # their kernel has bandwidth 1, ours is in units of sqrt(L)
    ours = kernel_score_loss(drawn, target, "gaussian", [1 / math.sqrt(drawn.shape[-1])])
    theirs = scoringrules.gksmv_ensemble(target.numpy(), drawn.numpy(), m_axis=0, v_axis=-1, estimator="fair")
    np.testing.assert_allclose(ours.numpy(), 2 * np.asarray(theirs), rtol=1e-9)


@counts
def test_variogram_loss_is_the_fair_variogram_score_over_pairs(samples: int) -> None:
    apart = 6.0 * torch.arange(4)  # the floor of a distance shows where two channels all but coincide
    drawn, target = (x + apart for x in drawn_and_target(samples))
    theirs = scoringrules.vs_ensemble(
        target.numpy(), drawn.numpy(), m_axis=0, v_axis=-1, p=0.5, estimator="fair", backend="numpy"
    )
    np.testing.assert_allclose(variogram_score_loss(drawn, target).numpy(), np.asarray(theirs) / 12, atol=1e-6)


def test_variogram_of_many_channels_looks_at_pairs_drawn_anew() -> None:
    torch.manual_seed(0)
    drawn, target = torch.randn(4, 50, 40), torch.randn(50, 40)
    assert MOST_PAIRS < 40 * 39 / 2
    some = torch.stack([variogram_score_loss(drawn, target).mean() for _ in range(60)])
    first, second = torch.triu_indices(40, 40, offset=1)
    pairs = [variogram_score_loss(drawn[..., [k, m]], target[..., [k, m]]).mean() for k, m in zip(first, second)]
    assert float(some.std()) > 0
    assert float(some.mean()) == pytest.approx(float(torch.stack(pairs).mean()), abs=4 * float(some.std()) / 60**0.5)


@every_rule
def test_of_several_targets_the_loss_is_the_mean(rule: Rule) -> None:
    drawn, target = drawn_and_target(3)
    targets = torch.stack((target, 2 * target, target + 1))
    torch.testing.assert_close(rule(drawn, targets), torch.stack([rule(drawn, one) for one in targets]).mean(dim=0))


@every_rule
def test_gradient_is_finite_where_samples_coincide(rule: Rule) -> None:
    drawn = torch.zeros(4, 3, 2, requires_grad=True)
    (gradient,) = torch.autograd.grad(rule(drawn, torch.ones(3, 2)).sum(), drawn)
    assert torch.isfinite(gradient).all()
    (gradient,) = torch.autograd.grad(rule(drawn, torch.zeros(3, 2)).sum(), drawn)
    assert torch.isfinite(gradient).all()


MIXING = torch.tensor([[1.0, 0.0, 0.0], [0.8, 0.6, 0.0], [0.0, 0.0, 0.5]])
"""Of the true distribution N(0, MIXING MIXING^T): two correlated channels and one by itself."""
WRONG: dict[str, Callable[[Tensor], Tensor]] = {
    "narrow": lambda noise: 0.75 * noise @ MIXING.T,
    "wide": lambda noise: 1.3 * noise @ MIXING.T,
    "moved": lambda noise: noise @ MIXING.T + 0.3,
    "uncorrelated": lambda noise: noise * torch.tensor([1.0, 1.0, 0.5]),
    "two points": lambda noise: noise.sign() @ MIXING.T,
}
BLIND = {"crps": ["uncorrelated"], "variogram": ["moved"]}


@every_rule
def test_every_rule_is_least_at_the_true_distribution(rule: Rule) -> None:
    name = next(key for key, value in RULES.items() if value is rule)
    torch.manual_seed(0)
    noise, target = torch.randn(2, 100_000, 3), torch.randn(100_000, 3) @ MIXING.T
    right = rule(noise @ MIXING.T, target)
    for mistake, wrong in WRONG.items():
        excess = rule(wrong(noise), target) - right
        error = float(excess.std()) / math.sqrt(len(excess))
        if mistake in BLIND.get(name, []):
            assert abs(float(excess.mean())) < 4 * error, f"{name} should not see samples that are {mistake}"
        else:
            assert float(excess.mean()) > 4 * error, f"{name} does not see that samples are {mistake}"


@every_rule
def test_expectation_does_not_depend_on_the_number_of_samples(rule: Rule) -> None:
    torch.manual_seed(0)
    target = torch.randn(60_000, 3) @ MIXING.T
    losses = [rule(torch.randn(n, len(target), 3) @ MIXING.T, target) for n in (2, 8)]
    error = math.hypot(*(float(loss.std()) / math.sqrt(len(target)) for loss in losses))
    assert abs(float(losses[0].mean() - losses[1].mean())) < 4 * error


def test_train_temperature_takes_a_share_of_the_spread_away() -> None:
    drawn, target = drawn_and_target(4)
    proper, cooler = energy_score_loss(drawn, target), energy_score_loss(drawn, target, spread=0.9)
    first, second = torch.triu_indices(4, 4, offset=1)
    spread = (drawn[first] - drawn[second]).norm(dim=-1).mean(dim=0)
    torch.testing.assert_close(cooler - proper, 0.1 * spread)
    channels = (drawn[first] - drawn[second]).abs().mean(dim=(0, -1))
    torch.testing.assert_close(crps_loss(drawn, target, spread=0.9) - crps_loss(drawn, target), 0.1 * channels)
