"""The Langevin head: its energy against known densities, its samples against known moments."""

import dataclasses
import math

import pytest
import torch
from torch import Tensor

from neurochorus.data_shards.settings import SettingsError, parse_settings
from neurochorus.models.heads import LangevinHead, LangevinHeadConfig
from tests.models.head_training import HIDDEN, bimodal_step, randomise, samples_of, train

STANDARD = LangevinHeadConfig(width=32, blocks=2, source="standard")


def test_untrained_loss_of_gaussian_targets_is_the_closed_form() -> None:
    """Mean over log-uniform sigma of s^2 / (s^2 + sigma^2)."""
    torch.manual_seed(0)
    config = dataclasses.replace(STANDARD, residual_sd=0.5)
    target = 0.5 * torch.randn(1, 40_000, 3)
    loss = LangevinHead(config, HIDDEN, 3).loss(
        torch.zeros(1, 40_000, HIDDEN), target, torch.ones(1, 40_000, dtype=torch.bool)
    )
    least, most = (-0.5 * math.log1p((0.5 / sigma) ** 2) for sigma in (config.sigma_min, config.sigma_max))
    expected = (most - least) / math.log(config.sigma_max / config.sigma_min)
    assert float(loss.detach()) == pytest.approx(expected, rel=0.02)


def test_score_is_minus_the_gradient_of_the_energy() -> None:
    torch.manual_seed(0)
    head = LangevinHead(dataclasses.replace(STANDARD, residual_sd=0.7), HIDDEN, 3)
    randomise(head, 0.3)
    y, hidden, sigma = torch.randn(5, 3), torch.randn(5, HIDDEN), torch.rand(5, 1) + 0.1
    with torch.no_grad():
        energy, score = head._energy_and_score(y, hidden, sigma)
        assert energy.shape == (5,)
        for channel in range(3):
            step = torch.zeros(3)
            step[channel] = 1e-2
            above, below = (head._energy_and_score(y + sign * step, hidden, sigma)[0] for sign in (1, -1))
            torch.testing.assert_close(-(above - below) / 2e-2, score[:, channel], atol=0.02, rtol=0.02)


def mixture(tokens: int) -> tuple[Tensor, Tensor]:
    """Two channels around (h, h) or (-h, -h), the first in 7 of 10, with sd 0.4; h is the first hidden value."""
    hidden = torch.zeros(1, tokens, HIDDEN)
    hidden[..., 0] = 0.6 * torch.rand(1, tokens) + 0.3
    sign = (torch.rand(1, tokens, 1) < 0.7) * 2.0 - 1
    return hidden, sign * hidden[..., :1] + 0.4 * torch.randn(1, tokens, 2)


def mixture_log_density(y: Tensor, h: float, sd: float) -> Tensor:
    modes = [
        math.log(share) - 0.5 * ((y - sign * h) / sd).square().sum(dim=-1) for share, sign in ((0.7, 1), (0.3, -1))
    ]
    return torch.logaddexp(*modes) - 2 * math.log(sd) - math.log(2 * math.pi)


def test_energies_differ_as_the_log_densities_of_a_known_mixture() -> None:
    """Errors are weighted by the smoothed density; its modes are near enough to be connected."""
    torch.manual_seed(0)
    head = LangevinHead(dataclasses.replace(STANDARD, sigma_min=0.1, sigma_max=2.0), HIDDEN, 2)
    train(head, mixture, steps=700, learning_rate=8e-3)
    grid = torch.cartesian_prod(torch.linspace(-2, 2, 21), torch.linspace(-2, 2, 21))
    for h in (0.4, 0.6, 0.8):
        hidden = torch.zeros(len(grid), HIDDEN)
        hidden[:, 0] = h
        exact = mixture_log_density(grid, h, math.hypot(0.4, 0.1))
        with torch.no_grad():
            ours = -head.energy(hidden, grid)
        assert spread(ours - exact, exact) < 0.3
        assert spread(-0.5 * grid.square().sum(dim=-1) - exact, exact) > 0.7, "as it starts it would not do"


def spread(values: Tensor, log_density: Tensor) -> float:
    """Standard deviation of values on a grid under a density."""
    weight = log_density.softmax(dim=0)
    return float((weight * (values - (weight * values).sum()).square()).sum().sqrt())


def test_hidden_source_scores_in_the_units_of_the_target() -> None:
    """Untrained, the energy is that of N(mean, sd^2 (1 + sigma_min^2)); sd counts, so that channels may be compared."""
    head = LangevinHead(LangevinHeadConfig(width=8, blocks=1, sigma_min=0.1), HIDDEN, 2)
    randomise(head.source, 0.5)  # type: ignore[arg-type]
    hidden, y = torch.randn(6, HIDDEN), torch.randn(6, 2)
    mean, sd = head.source(hidden)  # type: ignore[misc]
    density = torch.distributions.Normal(mean, sd * math.sqrt(1.01)).log_prob(y).sum(dim=-1)
    constant = -math.log(2 * math.pi) - math.log(1.01)
    torch.testing.assert_close(head.energy(hidden, y), constant - density)


def test_samples_of_the_quadratic_part_have_its_moments() -> None:
    """N(0, s^2), narrower by the denoising; temperature scales the sd; without predictor they stay too wide."""
    head = LangevinHead(dataclasses.replace(STANDARD, residual_sd=0.8), HIDDEN, 4)
    samples = samples_of(head, 4000)
    assert float(samples.mean(dim=0).abs().max()) < 0.05
    assert float(samples.std()) == pytest.approx(0.8 * 0.8 / math.hypot(0.8, 0.05), rel=0.015)
    with torch.no_grad():
        cold = head.sample(torch.zeros(1, HIDDEN), 4000, torch.Generator().manual_seed(1), temperature=0.5)
    torch.testing.assert_close(cold[:, 0], 0.5 * samples)
    head.config = dataclasses.replace(head.config, predictor=False)
    assert float(samples_of(head, 4000).std()) > 0.8 * 1.1


def test_samples_of_a_trained_head_have_the_moments_of_the_targets() -> None:
    torch.manual_seed(0)
    mixing = torch.tensor([[1.0, 0.0], [0.8, 0.3]])

    def draw(tokens: int) -> tuple[Tensor, Tensor]:
        return torch.zeros(1, tokens, HIDDEN), torch.randn(1, tokens, 2) @ mixing.T + torch.tensor([1.0, -2.0])

    head = LangevinHead(LangevinHeadConfig(width=32, blocks=2), HIDDEN, 2)
    train(head, draw, steps=400, learning_rate=5e-3)
    samples = samples_of(head, 4000)
    torch.testing.assert_close(samples.mean(dim=0), torch.tensor([1.0, -2.0]), atol=0.1, rtol=0.0)
    torch.testing.assert_close(samples.T.cov(), mixing @ mixing.T, atol=0.12, rtol=0.0)


def test_denoising_takes_the_least_noise_off() -> None:
    torch.manual_seed(0)
    config = dataclasses.replace(STANDARD, sigma_min=0.2, levels=24)
    head = LangevinHead(config, HIDDEN, 1)
    train(head, bimodal_step, steps=300)
    spread = []
    for denoise in (True, False):
        head.config = dataclasses.replace(config, denoise=denoise)
        samples = samples_of(head)
        spread.append(float((samples - samples.sign()).std()))
    assert spread[1] == pytest.approx(math.hypot(0.1, 0.2), rel=0.25)
    assert spread[0] < 0.14


def test_sampling_needs_no_gradient_and_leaves_none() -> None:
    head = LangevinHead(STANDARD, HIDDEN, 2)
    randomise(head, 0.2)
    with torch.no_grad():
        without = head.sample(torch.zeros(2, HIDDEN), 3, torch.Generator().manual_seed(0))
    with_gradient = head.sample(torch.zeros(2, HIDDEN), 3, torch.Generator().manual_seed(0))
    assert torch.equal(without, with_gradient)
    assert not with_gradient.requires_grad
    assert all(parameter.grad is None for parameter in head.parameters())


@pytest.mark.parametrize(
    ("values", "key"),
    [({"sigma_min": 4.0}, "sigma_min"), ({"step_size": 2.0}, "step_size"), ({"level_features": 3}, "level_features")],
)
def test_settings_that_cannot_work_are_named(values: dict[str, object], key: str) -> None:
    with pytest.raises(SettingsError, match=key):
        parse_settings(LangevinHeadConfig, values, "test")
