"""Masked generation of a process whose conditional distributions are known, a stationary AR(1).

`ExactDynamics` gives its tokens exactly those distributions, so what it draws is wrong only where the order of drawing
is; a small trained model comes close to it. R rows, T bins, J tokens of p bins, P = p, U unknown bins.
"""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from neurochorus.models import LatentSequence
from neurochorus.models.dynamics.masked import MaskedDynamics
from neurochorus.models.dynamics.unmasking import MaskedConfig
from neurochorus.models.heads import Generators, Head
from neurochorus.models.heads.base import normal
from tests.models.test_masked import masked_dynamics, nothing

RHO = 0.9


def ar1(rows: int, bins: int) -> Tensor:
    """Rows of a stationary AR(1) of variance 1 and lag-1 autocorrelation RHO, (rows, bins, 1)."""
    latent = [torch.randn(rows, 1)]
    for _ in range(bins - 1):
        latent.append(RHO * latent[-1] + math.sqrt(1 - RHO**2) * torch.randn(rows, 1))
    return torch.stack(latent, dim=1)


def ar1_covariance(bins: int) -> Tensor:
    bin_T = torch.arange(bins, dtype=torch.float64)
    return RHO ** (bin_T[:, None] - bin_T).abs()


def moments(latent_RT1: Tensor) -> tuple[float, float]:
    """Variance, and variance of the differences of neighbours: 1 and 2 (1 - RHO) = 0.2 for `ar1`."""
    return float(latent_RT1.var()), float((latent_RT1[:, 1:] - latent_RT1[:, :-1]).var())


def bridge(value_T: Tensor, known_T: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (U,) and covariance (U, U) of the unknown bins of an AR(1) given the known ones."""
    covariance = ar1_covariance(len(value_T))
    weight = covariance[~known_T][:, known_T] @ torch.linalg.inv(covariance[known_T][:, known_T])
    left = covariance[~known_T][:, ~known_T] - weight @ covariance[known_T][:, ~known_T]
    return weight @ value_T[known_T].double(), left


class ExactHead(Head):
    name = "exact"

    def sample(self, hidden_BD: Tensor, n: int, generator: Generators, temperature: float = 1.0) -> Tensor:
        channels = int(math.sqrt(hidden_BD.shape[1]))  # p (p + 1) numbers: a mean and a triangular factor
        mean, factor = hidden_BD.split([channels, channels**2], dim=-1)
        noise = normal(n, len(hidden_BD), channels, generator, hidden_BD) * temperature
        return mean + (factor.unflatten(-1, (channels, channels)) @ noise.unsqueeze(-1)).squeeze(-1)


class ExactDynamics(MaskedDynamics):
    """Its hidden states are the exact conditional mean and Cholesky factor of each token of an AR(1)."""

    def hidden(self, token_BJP: Tensor, known_BJ: Tensor, valid_BJ: Tensor | None, condition_BJD: Tensor) -> Tensor:
        rows, tokens, patch = token_BJP.shape
        known_BT = known_BJ.repeat_interleave(patch, dim=1).double()
        covariance = ar1_covariance(tokens * patch)
        seen = known_BT[:, :, None] * covariance * known_BT[:, None, :] + torch.diag_embed(1 - known_BT)
        gain = torch.linalg.solve(seen, known_BT[:, :, None] * covariance).transpose(1, 2)
        mean_BJP = (gain @ (known_BT.unsqueeze(-1) * token_BJP.double().view(rows, -1, 1))).view(rows, tokens, patch)
        left = covariance - gain @ (known_BT[:, :, None] * covariance)
        blocks = torch.stack([left[:, j : j + patch, j : j + patch] for j in range(0, tokens * patch, patch)], dim=1)
        unknown = (~known_BJ).double()[:, :, None, None]
        factor = torch.linalg.cholesky(blocks * unknown + (1 - unknown) * torch.eye(patch))
        return torch.cat((mean_BJP, factor.flatten(2)), dim=-1).float()


def exact_dynamics(**settings: object) -> ExactDynamics:
    dynamics = masked_dynamics(**settings)  # type: ignore[arg-type]
    dynamics.__class__ = ExactDynamics
    dynamics.head = ExactHead()
    assert isinstance(dynamics, ExactDynamics)
    return dynamics


def test_one_token_at_a_time_is_the_process_and_few_steps_are_not() -> None:
    """The defect of drawing neighbours together, and what mends it: levels of the spread order, and patches."""
    bins, rows = 24, 3000

    def drawn(**settings: object) -> tuple[float, float]:
        dynamics = exact_dynamics(**settings)
        return moments(dynamics.simulate(nothing(), bins, rows, torch.Generator().manual_seed(0))[0])

    for exact in ({"steps": bins, "order": "random"}, {"steps": bins}, {"schedule": "levels"}):
        variance, step = drawn(**exact)
        assert variance == pytest.approx(1.0, abs=0.05)
        assert step == pytest.approx(0.2, abs=0.006)
    random6, spread6, patches6, left6 = (
        drawn(steps=6, **settings)[1]
        for settings in ({"order": "random"}, {}, {"patch_bins": 4}, {"order": "left_to_right"})
    )
    assert patches6 == pytest.approx(0.2, abs=0.006)  # 6 patches of 4 bins in 6 steps
    assert 0.2 < spread6 < 0.24
    assert 0.27 < random6 < 0.33
    assert left6 > 0.5


def test_a_gap_is_filled_with_the_exact_bridge() -> None:
    """Mean and covariance of the bins in a gap, and of bins after a context, given all that is known."""
    torch.manual_seed(0)
    value = ar1(1, 16)
    for known in (torch.arange(16) % 11 < 5, torch.arange(16) < 7):
        mean, covariance = bridge(value[0, :, 0], known)
        for settings in ({"steps": 16, "order": "random"}, {"schedule": "levels"}):
            dynamics = exact_dynamics(**settings)
            filled = dynamics.fill(LatentSequence.plain(value), known[None], 6000, torch.Generator().manual_seed(1))
            unknown = filled[0][:, ~known, 0].double()
            torch.testing.assert_close(unknown.mean(dim=0), mean, rtol=0, atol=0.05)
            torch.testing.assert_close(torch.cov(unknown.T), covariance, rtol=0, atol=0.05)


def test_sliding_windows_go_on_without_a_seam() -> None:
    dynamics = exact_dynamics(steps=16, order="random")
    dynamics.longest_window.fill_(16)
    drawn = dynamics.simulate(nothing(), 50, 3000, torch.Generator().manual_seed(0))[0]
    step_T = (drawn[:, 1:] - drawn[:, :-1]).var(dim=0)
    torch.testing.assert_close(step_T, torch.full_like(step_T, 0.2), rtol=0, atol=0.03)
    torch.testing.assert_close(drawn.var(dim=0), torch.ones_like(drawn[0]), rtol=0, atol=0.12)
    context = torch.full((1, 40, 1), 2.0)
    after = dynamics.simulate(LatentSequence.plain(context), 3, 3000, torch.Generator().manual_seed(0))[0, :, :, 0]
    exact = 2.0 * RHO ** torch.arange(1, 4)
    torch.testing.assert_close(after.mean(dim=0), exact, rtol=0, atol=0.06)


def test_a_trained_model_finds_the_process_and_the_bridge() -> None:
    """Some ten seconds of training; then as above, to the accuracy of so small a model."""
    dynamics = masked_dynamics(ratio_lowest=0.02, ratio_sd=10.0).train()
    optimizer = torch.optim.Adam(dynamics.parameters(), lr=5e-3, betas=(0.9, 0.99))
    steps, bins = 600, 12
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 5e-3 * min(1.0, step / 50) * (1 - step / steps)
        optimizer.zero_grad()
        loss, count, _ = dynamics(LatentSequence.plain(ar1(64, bins)))
        (loss / count).backward()
        torch.nn.utils.clip_grad_norm_(dynamics.parameters(), 1.0)
        optimizer.step()
    dynamics.eval()

    def drawn(**masked: object) -> tuple[float, float]:
        dynamics.config = replace(dynamics.config, masked=MaskedConfig(**masked))  # type: ignore[arg-type]
        return moments(dynamics.simulate(nothing(), bins, 4000, torch.Generator().manual_seed(0))[0])

    assert drawn(steps=3, order="random")[1] > 0.3  # neighbours drawn together: 0.37 where the conditionals are exact
    for masked in ({"schedule": "levels"}, {"steps": bins, "order": "random"}):
        assert drawn(**masked) == (pytest.approx(1.0, abs=0.15), pytest.approx(0.2, abs=0.05))
    value, known = torch.zeros(1, bins, 1), torch.arange(bins) % 8 < 4
    value[0, :4], value[0, 8:] = 1.5, -1.5  # without its right side the gap would stay above 0
    mean, covariance = bridge(value[0, :, 0], known)
    filled = dynamics.fill(LatentSequence.plain(value), known[None], 4000, torch.Generator().manual_seed(1))
    unknown = filled[0][:, ~known, 0].double()
    torch.testing.assert_close(unknown.mean(dim=0), mean, rtol=0, atol=0.25)
    torch.testing.assert_close(unknown.std(dim=0), covariance.diag().sqrt(), rtol=0.2, atol=0)
