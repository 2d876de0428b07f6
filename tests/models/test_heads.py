"""Heads against closed forms and other people's code."""

import math

import numpy as np
import pytest
import scoringrules
import torch

from neurochorus.models.heads import HeadsConfig, build_head, energy_score_loss
from neurochorus.models.heads.base import masked_mean
from neurochorus.models.heads.flow import FlowHead, FlowHeadConfig
from neurochorus.models.heads.gaussian import GaussianHead, GaussianHeadConfig
from neurochorus.models.heads.solvers import SOLVERS, integrate

HEADS = ("energy", "flow", "gaussian")


@pytest.mark.parametrize("samples", [2, 8])
def test_energy_loss_is_twice_the_fair_energy_score(samples: int) -> None:
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randn(samples, 6, 5, 4, generator=generator, dtype=torch.float64)
    target = torch.randn(6, 5, 4, generator=generator, dtype=torch.float64)
    ours = energy_score_loss(drawn, target).numpy()
    theirs = scoringrules.es_ensemble(target.numpy(), drawn.numpy(), m_axis=0, v_axis=-1, estimator="fair")
    np.testing.assert_allclose(ours, 2 * np.asarray(theirs), rtol=1e-10)


def test_energy_loss_gradient_is_finite_where_samples_coincide() -> None:
    drawn = torch.zeros(4, 3, 2, requires_grad=True)
    for beta in (0.5, 1.0, 1.5):
        (gradient,) = torch.autograd.grad(energy_score_loss(drawn, torch.ones(3, 2), beta).sum(), drawn)
        assert torch.isfinite(gradient).all()


def test_flow_loss_at_the_gaussian_optimum_is_sd_times_half_pi() -> None:
    """Independent N(0, s^2) targets: the untrained head is exactly the preconditioner a(t), the optimum."""
    torch.manual_seed(0)
    for sd in (0.5, 1.0):
        head = FlowHead(FlowHeadConfig(residual_sd=sd, draws=1), hidden=4, latents=6)
        target = sd * torch.randn(400, 200, 6)
        loss = head.loss(torch.zeros(400, 200, 4), target, torch.ones(400, 200, dtype=torch.bool))
        # integral over t of s^2 / ((1 - t)^2 + t^2 s^2)
        assert float(loss.detach()) == pytest.approx(sd * math.pi / 2, rel=0.01)


def test_flow_samples_of_the_preconditioner_have_the_stated_sd() -> None:
    """Noise in directions without data must shrink to the data's spread, not keep unit variance (AFM's defect)."""
    head = FlowHead(FlowHeadConfig(residual_sd=0.3, steps=32, solver="midpoint"), hidden=4, latents=5)
    samples = head.sample(torch.zeros(1, 4), 4000, torch.Generator().manual_seed(0))
    np.testing.assert_allclose(samples.std(dim=0).detach().numpy(), 0.3, rtol=0.06)


@pytest.mark.parametrize(("solver", "order"), [("euler", 1), ("midpoint", 2), ("heun", 2), ("rk4", 4)])
def test_solver_orders(solver: str, order: int) -> None:
    """dx/dt = x cos t has x(1) = exp(sin 1); halving the step divides the error by 2^order."""
    assert set(SOLVERS) == {"euler", "midpoint", "heun", "rk4"}
    start, exact = torch.ones(1, dtype=torch.float64), math.exp(math.sin(1.0))
    errors = [abs(float(integrate(lambda x, t: x * math.cos(t), start, steps, solver)) - exact) for steps in (16, 32)]
    assert math.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.2)


def test_gaussian_loss_matches_the_dense_density_and_its_samples_the_covariance() -> None:
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


def train_on_bimodal(name: str) -> torch.Tensor:
    """2,000 samples of a head trained on targets +2 or -2 (sd 0.2) that the hidden state does not tell apart."""
    torch.manual_seed(0)
    head = build_head(name, HeadsConfig(), hidden=4, latents=1)
    optimizer = torch.optim.Adam(head.parameters(), lr=2e-3)
    hidden, mask = torch.zeros(1, 256, 4), torch.ones(1, 256, dtype=torch.bool)
    for _ in range(400):
        target = torch.randn(1, 256, 1) * 0.2 + 2.0 * (torch.randint(0, 2, (1, 256, 1)) * 2 - 1)
        optimizer.zero_grad()
        head.loss(hidden, target, mask).backward()
        optimizer.step()
    return head.sample(torch.zeros(1, 4), 2000, torch.Generator().manual_seed(1))[:, 0, 0].detach()


@pytest.mark.parametrize("name", ["energy", "flow"])
def test_energy_and_flow_find_both_modes(name: str) -> None:
    samples = train_on_bimodal(name)
    near_a_mode = ((samples.abs() - 2.0).abs() < 0.8).float().mean()
    assert float(near_a_mode) > 0.85
    assert 0.35 < float((samples > 0).float().mean()) < 0.65


def test_a_gaussian_head_cannot() -> None:
    samples = train_on_bimodal("gaussian")
    assert float(((samples.abs() - 2.0).abs() < 0.8).float().mean()) < 0.7


@pytest.mark.parametrize("name", HEADS)
def test_a_row_is_sampled_from_its_own_generator(name: str) -> None:
    torch.manual_seed(0)
    head = build_head(name, HeadsConfig(), hidden=4, latents=3)
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    hidden = torch.randn(3, 4)

    def generators(numbers: list[int]) -> list[torch.Generator]:
        return [torch.Generator().manual_seed(number) for number in numbers]

    together = head.sample(hidden, 2, generators([1, 2, 3]))
    alone = head.sample(hidden[1:2], 2, generators([2]))
    assert together.shape == (2, 3, 3)
    torch.testing.assert_close(alone[:, 0], together[:, 1])
    assert not torch.allclose(together[0], together[1])
    with pytest.raises(ValueError, match="2 generators for 3 rows"):
        head.sample(hidden, 1, generators([1, 2]))


@pytest.mark.parametrize("name", HEADS)
def test_masked_tokens_do_not_count(name: str) -> None:
    torch.manual_seed(0)
    head = build_head(name, HeadsConfig(), hidden=4, latents=3)
    hidden, target, mask = torch.randn(2, 6, 4), torch.randn(2, 6, 3), torch.ones(2, 6, dtype=torch.bool)
    mask[:, 4:] = False
    torch.manual_seed(1)
    loss = head.loss(hidden, target, mask)
    target[:, 4:] += 100.0
    torch.manual_seed(1)
    assert torch.equal(head.loss(hidden, target, mask), loss)
    assert float(head.loss(hidden, target, torch.zeros_like(mask)).detach()) == 0.0


def test_masked_mean() -> None:
    loss = torch.tensor([[1.0, 2.0, 9.0]])
    assert float(masked_mean(loss, torch.tensor([[True, True, False]]))) == 1.5


def test_unknown_head_names_the_valid_ones() -> None:
    with pytest.raises(ValueError, match="'diffusion' is unknown; valid: energy, flow, gaussian"):
        build_head("diffusion", HeadsConfig(), 4, 3)
