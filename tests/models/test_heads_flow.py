"""The flow head: closed forms of Gaussian targets, solvers, sources, antithetic noise."""

import dataclasses
import math
import sys

import numpy as np
import pytest
import torch
from torch import Tensor

from neurochorus.data_shards.settings import SettingsError, parse_settings
from neurochorus.models.heads import FlowHead, FlowHeadConfig
from neurochorus.models.heads import flow as flow_module
from neurochorus.models.heads.solvers import SOLVERS, integrate, integrate_adaptively
from tests.models.head_training import HIDDEN, Draw, randomise, samples_of, train


def gaussian_targets(sd: float, latents: int) -> Draw:
    return lambda tokens: (torch.zeros(1, tokens, HIDDEN), sd * torch.randn(1, tokens, latents))


def mean_loss(head: FlowHead, draw: Draw, tokens: int = 20_000) -> float:
    torch.manual_seed(1)
    with torch.no_grad():
        hidden, target = draw(tokens)
        return float(head.loss(hidden, target, torch.ones(1, tokens, dtype=torch.bool)))


@pytest.mark.parametrize("sd", [0.5, 1.0])
def test_untrained_loss_of_gaussian_targets_is_sd_times_half_pi(sd: float) -> None:
    """The untrained head is exactly the preconditioner a(t), the optimum."""
    head = FlowHead(FlowHeadConfig(source="standard", width=8, blocks=1, residual_sd=sd, draws=1), HIDDEN, 6)
    # integral over t of s^2 / ((1 - t)^2 + t^2 s^2)
    assert mean_loss(head, gaussian_targets(sd, 6), 80_000) == pytest.approx(sd * math.pi / 2, rel=0.01)


def trained_for_narrow_targets(width: int) -> tuple[FlowHead, float]:
    """A head that expects sd 1 trained on targets of sd 0.3 in 16 channels, and its loss relative to the optimum."""
    torch.manual_seed(0)
    head = FlowHead(FlowHeadConfig(source="standard", width=width, blocks=1, solver="rk4"), HIDDEN, 16)
    draw = gaussian_targets(0.3, 16)
    train(head, draw, steps=300, learning_rate=5e-3)
    return head, mean_loss(head, draw) / (0.3 * math.pi / 2)


def test_trained_loss_is_the_optimum_unless_the_network_cannot_reach_every_direction() -> None:
    head, loss = trained_for_narrow_targets(width=32)
    assert loss == pytest.approx(1.0, abs=0.02)
    np.testing.assert_allclose(samples_of(head).std(dim=0).numpy(), 0.3, rtol=0.1)
    _, loss = trained_for_narrow_targets(width=8)
    assert loss > 1.3


def spread_off_the_data(residual_sd: float) -> tuple[float, float]:
    """Sample sd along two directions of sd 1, and along 14 of sd 0.05, of a trained head narrower than its latents."""
    torch.manual_seed(0)
    turned = torch.linalg.qr(torch.randn(16, 16))[0]
    sd = torch.tensor([1.0] * 2 + [0.05] * 14)
    head = FlowHead(FlowHeadConfig(source="standard", width=8, blocks=1, residual_sd=residual_sd, steps=32), HIDDEN, 16)
    train(head, lambda n: (torch.zeros(1, n, HIDDEN), (sd * torch.randn(1, n, 16)) @ turned.T), 300, 5e-3)
    spread = (samples_of(head) @ turned).std(dim=0)
    return float(spread[:2].mean()), float(spread[2:].mean())


def test_noise_in_directions_without_data_shrinks_to_the_data(monkeypatch: pytest.MonkeyPatch) -> None:
    """AFM's defect: without a(t) x a narrow network leaves its unit variance wherever it cannot see."""
    along, off = spread_off_the_data(residual_sd=0.05)
    assert along == pytest.approx(1.0, abs=0.15)
    assert off == pytest.approx(0.05, rel=0.5)
    monkeypatch.setattr(flow_module, "velocity_factor", lambda t, sd: torch.zeros_like(t))
    _, off = spread_off_the_data(residual_sd=0.05)
    assert off > 0.4


@pytest.mark.parametrize("steps", [1, 2, 8])
def test_exponential_solver_is_exact_for_gaussian_targets_at_any_number_of_steps(steps: int) -> None:
    config = FlowHeadConfig(source="standard", width=8, blocks=1, residual_sd=0.3, steps=steps, solver="exponential")
    noise = torch.randn(500, 1, 5, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(samples_of(FlowHead(config, HIDDEN, 5), 500), 0.3 * noise[:, 0])
    euler = FlowHead(dataclasses.replace(config, solver="euler"), HIDDEN, 5)
    assert float(samples_of(euler, 500).std()) < 0.26, "euler ends too narrow"


@pytest.mark.parametrize(("solver", "order"), [("euler", 1), ("midpoint", 2), ("heun", 2), ("rk4", 4)])
def test_solver_orders(solver: str, order: int) -> None:
    """dx/dt = x cos t has x(1) = exp(sin 1); halving the step divides the error by 2^order."""
    assert set(SOLVERS) == {"euler", "midpoint", "heun", "rk4"}
    start, exact = torch.ones(1, dtype=torch.float64), math.exp(math.sin(1.0))
    errors = [abs(float(integrate(lambda x, t: x * math.cos(t), start, steps, solver)) - exact) for steps in (16, 32)]
    assert math.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.2)
    adaptive = integrate_adaptively(lambda x, t: x * math.cos(t), start, tolerance=1e-8)
    assert float(adaptive) == pytest.approx(exact, abs=1e-7)


def test_every_solver_of_a_head_ends_where_the_adaptive_one_does() -> None:
    torch.manual_seed(0)
    head = FlowHead(FlowHeadConfig(source="standard", width=16, blocks=2, solver="adaptive"), HIDDEN, 3)
    randomise(head, 0.15)
    reference = samples_of(head, 20)
    gaussian = torch.randn(20, 1, 3, generator=torch.Generator().manual_seed(1))[:, 0]
    assert float((reference - gaussian).abs().max()) > 0.05, "the network must matter"
    for solver, steps in (("rk4", 16), ("heun", 64), ("midpoint", 64), ("exponential", 512), ("euler", 512)):
        head.config = dataclasses.replace(head.config, solver=solver, steps=steps)  # type: ignore[arg-type]
        torch.testing.assert_close(samples_of(head, 20), reference, rtol=0.0, atol=1e-2)


def test_without_torchdiffeq_the_adaptive_solver_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchdiffeq", None)
    head = FlowHead(FlowHeadConfig(source="standard", width=8, blocks=1, solver="adaptive"), HIDDEN, 2)
    with pytest.raises(ValueError, match=r"pip install 'neurochorus\[ode\]'"):
        samples_of(head, 1)


def test_hidden_source_finds_mean_and_sd_and_leaves_the_rest_to_the_flow() -> None:
    torch.manual_seed(0)
    mean, sd = torch.tensor([2.0, -1.0, 0.0]), torch.tensor([0.2, 1.5, 0.05])

    def draw(tokens: int) -> tuple[Tensor, Tensor]:
        hidden = torch.randn(1, tokens, HIDDEN)
        return hidden, hidden[..., :1] * mean + sd * torch.randn(1, tokens, 3)

    head = FlowHead(FlowHeadConfig(width=16, blocks=1, source="hidden", steps=1, solver="exponential"), HIDDEN, 3)
    train(head, draw, steps=500, learning_rate=3e-2)
    fitted_mean, fitted_sd = head.source(torch.tensor([[1.0, 0.0, 0.0, 0.0]]))  # type: ignore[misc]
    np.testing.assert_allclose(fitted_mean[0].detach(), mean, atol=0.1)
    np.testing.assert_allclose(fitted_sd[0].detach(), sd, rtol=0.15)
    at_one = head.sample(torch.tensor([[1.0, 0.0, 0.0, 0.0]]), 2000, torch.Generator().manual_seed(0))[:, 0].detach()
    np.testing.assert_allclose(at_one.mean(dim=0), mean, atol=0.15)
    np.testing.assert_allclose(at_one.std(dim=0), sd, rtol=0.2)


def test_the_loss_of_the_flow_does_not_reach_its_source(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    head = FlowHead(FlowHeadConfig(width=8, blocks=1, source="hidden", variant="shortcut"), HIDDEN, 3)
    randomise(head, 0.1)
    monkeypatch.setattr(flow_module, "negative_log_likelihood", lambda mean, sd, target: target.mean(dim=(0, -1)))
    head.loss(torch.randn(2, 5, HIDDEN), torch.randn(2, 5, 3), torch.ones(2, 5, dtype=torch.bool)).backward()
    assert head.state.weight.grad is not None
    assert all(parameter.grad is None for parameter in head.source.parameters())  # type: ignore[union-attr]


def test_antithetic_draws_come_in_pairs() -> None:
    config = FlowHeadConfig(source="standard", width=8, blocks=1, antithetic=True, draws=4)
    head = FlowHead(config, HIDDEN, 3)
    draws = samples_of(head, 5)
    assert draws.shape == (5, 3)
    torch.testing.assert_close(draws[0::2][:2], -draws[1::2])  # untrained, the flow is odd
    assert not torch.allclose(draws[0], draws[2])
    noise, t = head._noise_and_times(torch.zeros(2, 6, 3))
    assert noise.shape == (4, 2, 6, 3)
    assert torch.equal(noise[:2], -noise[2:])
    assert torch.equal(t[:2], t[2:])
    with pytest.raises(SettingsError, match="draws: antithetic noise comes in pairs"):
        parse_settings(FlowHeadConfig, {"antithetic": True, "draws": 3}, "test")
