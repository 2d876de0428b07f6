"""The diffusion baseline: its sampler against exact scores, its training against a known covariance, its contract."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from neurochorus.models import DynamicsConfig, TransformerConfig
from neurochorus.models.dynamics import LatentSequence
from neurochorus.models.dynamics.denoising import DiffusionConfig, denoise, kept_variance
from neurochorus.models.dynamics.diffusion import DiffusionDynamics
from neurochorus.models.heads import HeadsConfig
from tests.models.conftest import small_model

COVARIANCE = torch.tensor([[1.0, 0.6, 0.2], [0.6, 0.8, -0.1], [0.2, -0.1, 0.3]], dtype=torch.float64)
MEAN = torch.tensor([0.5, -1.0, 2.0], dtype=torch.float64)


def exact_noise(config: DiffusionConfig):
    """E[e | x_t] for x_0 ~ N(MEAN, COVARIANCE): sqrt(1 - a) (a COVARIANCE + (1 - a) I)^-1 (x_t - sqrt(a) MEAN)."""
    kept = kept_variance(config)

    def estimate(x: Tensor, level: int) -> Tensor:
        a = kept[level]
        spread = a * COVARIANCE + (1 - a) * torch.eye(3, dtype=torch.float64)
        return (1 - a).sqrt() * torch.linalg.solve(spread, (x - a.sqrt() * MEAN).T).T

    return estimate


@pytest.mark.parametrize(
    ("sampler", "steps", "tolerance"), [("ddpm", 1000, 0.04), ("ddim", 500, 0.04), ("ddim", 50, 0.1), ("ddpm", 50, 0.2)]
)
def test_samplers_reproduce_a_gaussian_from_its_exact_score(sampler: str, steps: int, tolerance: float) -> None:
    """With few steps both have too little spread, DDPM with its smaller variance more so."""
    config = DiffusionConfig(sampler=sampler, sampling_steps=steps)  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(0)

    def draw() -> Tensor:
        return torch.randn(15_000, 3, generator=generator, dtype=torch.float64)

    samples = denoise(draw(), exact_noise(config), config, draw).numpy()
    np.testing.assert_allclose(samples.mean(axis=0), MEAN, atol=0.03)
    np.testing.assert_allclose(np.cov(samples.T), COVARIANCE, atol=tolerance)


def test_ddpm_steps_are_those_of_ho_et_al() -> None:
    """One step against equation 11 and the variance b_t (1 - a_{t-1}) / (1 - a_t) of Ho et al. 2020."""
    config = DiffusionConfig(train_steps=2, sampling_steps=2, first_beta=0.1, last_beta=0.3)
    x, e, z = (torch.tensor([value], dtype=torch.float64) for value in (0.7, -0.4, 1.3))
    seen: list[Tensor] = []

    def estimate(value: Tensor, level: int) -> Tensor:
        seen.append(value)
        return e

    denoise(x, estimate, config, lambda: z)
    kept = 0.9 * 0.7
    mean = (x - 0.3 / (1 - kept) ** 0.5 * e) / 0.7**0.5
    torch.testing.assert_close(seen[1], mean + (0.3 * (1 - 0.9) / (1 - kept)) ** 0.5 * z)


def new_dynamics(patch_bins: int = 2, latents: int = 2, positions: int = 0, **diffusion: object) -> DiffusionDynamics:
    torch.manual_seed(0)
    config = DynamicsConfig(
        order="diffusion",
        target="level",
        patch_bins=patch_bins,
        positions=positions,
        transformer=TransformerConfig(width=32, blocks=2, heads=2, dropout=0.0),
        diffusion=DiffusionConfig(**diffusion),  # type: ignore[arg-type]
    )
    return DiffusionDynamics(config, "energy", HeadsConfig(), latents, sessions=1, subjects=1)


def gaussian_process(trials: int, generator: torch.Generator) -> Tensor:
    """Two channels of 12 bins: AR(1) with coefficient 0.9 and unit variance, and 0.8 times the first plus noise."""
    noise = torch.randn(trials, 12, 2, generator=generator)
    first = [noise[:, 0, 0]]
    for bin_ in range(1, 12):
        first.append(0.9 * first[-1] + (1 - 0.9**2) ** 0.5 * noise[:, bin_, 0])
    one = torch.stack(first, dim=1)
    return torch.stack((one, 0.8 * one + 0.6 * noise[:, :, 1]), dim=-1)


def test_training_on_a_gaussian_process_gives_its_covariance() -> None:
    """An untrained network is exact for white latents only: the correlations must have been learned."""
    dynamics, generator = new_dynamics(sampler="ddim", sampling_steps=50), torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(dynamics.parameters(), lr=5e-3)
    torch.manual_seed(1)
    for step in range(400):
        optimizer.param_groups[0]["lr"] = 5e-3 * (1 - step / 400)
        loss, bins, _ = dynamics(LatentSequence.plain(gaussian_process(128, generator)))
        optimizer.zero_grad()
        (loss / bins).backward()
        optimizer.step()
    samples = dynamics.eval().simulate(LatentSequence.plain(torch.zeros(1, 0, 2)), 12, 2000, generator)[0]
    exact = gaussian_process(20_000, generator).flatten(1).T.cov()
    made = samples.flatten(1).T.cov()
    assert float((made - exact).square().mean().sqrt()) < 0.15
    assert float((torch.eye(24) - exact).square().mean().sqrt()) > 0.45


def test_padding_has_no_effect_and_does_not_count() -> None:
    dynamics = new_dynamics()
    torch.nn.init.normal_(dynamics.output.output.weight)
    sequence = LatentSequence.plain(torch.randn(3, 8, 2))
    mask_BT = sequence.mask_BT.clone()
    mask_BT[:, 6:] = False
    losses = []
    for filler in (0.0, 100.0):
        latent_BTL = torch.where(mask_BT.unsqueeze(-1), sequence.latent_BTL, filler)
        torch.manual_seed(1)
        loss, bins, parts = dynamics(replace(sequence, latent_BTL=latent_BTL, mask_BT=mask_BT))
        losses.append(loss)
        assert int(bins) == 18
        assert parts["diffusion"] == loss
    torch.testing.assert_close(losses[0], losses[1])


def trained(patch_bins: int = 2) -> DiffusionDynamics:
    """Weights of some effect, and a window of 12 bins seen in training."""
    dynamics = new_dynamics(patch_bins=patch_bins, sampling_steps=4)
    dynamics(LatentSequence.plain(torch.randn(2, 12, 2)))
    torch.nn.init.normal_(dynamics.output.output.weight, std=0.3)
    return dynamics.eval()


@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_a_sample_depends_on_its_own_generator_only(guidance: float) -> None:
    dynamics = trained()

    def simulate(numbers: list[int], rows: int) -> Tensor:
        generators = [torch.Generator().manual_seed(number) for number in numbers]
        nothing = LatentSequence.plain(torch.zeros(rows, 0, 2))
        return dynamics.simulate(nothing, 12, len(numbers) // rows, generators, guidance=guidance)

    together, alone = simulate([1, 2, 3, 4], 2), simulate([3], 1)
    assert together.shape == (2, 2, 12, 2)
    torch.testing.assert_close(alone[0, 0], together[1, 0])
    assert not torch.allclose(together[0, 0], together[0, 1])


def test_a_shorter_horizon_is_the_start_of_a_whole_window() -> None:
    dynamics, nothing = trained(), LatentSequence.plain(torch.zeros(1, 0, 2))
    whole, start = (dynamics.simulate(nothing, horizon, 1, [torch.Generator().manual_seed(0)]) for horizon in (12, 5))
    torch.testing.assert_close(start, whole[:, :, :5])


def test_what_it_cannot_do_is_refused() -> None:
    dynamics, nothing = trained(), LatentSequence.plain(torch.zeros(1, 0, 2))
    generator = torch.Generator()
    with pytest.raises(ValueError, match="a context of 3 bins"):
        dynamics.simulate(LatentSequence.plain(torch.zeros(1, 3, 2)), 4, 1, generator)
    with pytest.raises(ValueError, match=r"a horizon of 13 bins.*windows of the 12 bins"):
        dynamics.simulate(nothing, 13, 1, generator)
    with pytest.raises(ValueError, match="no head 'gaussian'"):
        dynamics.simulate(nothing, 4, 1, generator, head="gaussian")


def test_learned_places_tell_where_in_a_window_a_token_is() -> None:
    """Tokens that are all alike look alike to relative places; learned ones tell them apart."""
    for positions in (0, 6):
        dynamics = new_dynamics(positions=positions).eval()
        torch.nn.init.normal_(dynamics.output.output.weight)
        nothing = dynamics.condition(LatentSequence.plain(torch.zeros(1, 12, 2)), 12)
        estimate = dynamics.noise_estimate(torch.ones(1, 6, 4), torch.tensor([500]), nothing)
        assert (float(estimate.detach().std(dim=1).max()) > 1e-3) == bool(positions)
    with pytest.raises(ValueError, match="14 bins, and learned places of 12"):
        dynamics(LatentSequence.plain(torch.zeros(1, 14, 2)))


def test_a_whole_model_generates_from_nothing() -> None:
    model = small_model(order="diffusion", target="level", diffusion=DiffusionConfig(sampling_steps=3))
    rollout = model.rollout(model.context("b_s1", np.zeros((2, 0, 8))), 6, 3)
    assert rollout.counts.shape == (3, 2, 6, 8)
    assert model.dynamics.companion is None
