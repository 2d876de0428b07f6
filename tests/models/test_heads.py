"""What holds for every head: rows by themselves, masks, several targets, precision, two modes."""

from typing import Any

import pytest
import torch
from torch import Tensor

from neurochorus.models.heads import (
    EnergyHeadConfig,
    FlowHeadConfig,
    Head,
    HeadsConfig,
    LangevinHeadConfig,
    build_head,
)
from neurochorus.models.heads.base import drawn_targets, masked_mean, waves
from tests.models.head_training import (
    HIDDEN,
    bimodal_step,
    in_the_middle,
    randomise,
    samples_of,
    train,
)


def energy(**settings: Any) -> tuple[str, HeadsConfig]:
    return "energy", HeadsConfig(energy=EnergyHeadConfig(width=32, blocks=2, noise=8, **settings))


def flow(**settings: Any) -> tuple[str, HeadsConfig]:
    return "flow", HeadsConfig(flow=FlowHeadConfig(width=32, blocks=2, **settings))


def langevin(**settings: Any) -> tuple[str, HeadsConfig]:
    return "langevin", HeadsConfig(langevin=LangevinHeadConfig(width=32, blocks=2, **settings))


HEADS = {
    "energy": energy(samples=8),
    "energy, shift": energy(temperature_acts_on="shift"),
    "kernel": energy(samples=8, rule="kernel"),
    "laplace": energy(samples=8, rule="kernel", kernel="laplace"),
    "crps": energy(samples=8, rule="crps"),
    "variogram": energy(variogram_weight=1.0),
    "marginal": energy(marginal_weight=1.0),
    "flow": flow(),
    "flow, standard": flow(source="standard", solver="euler", steps=8),
    "exponential": flow(solver="exponential"),
    "antithetic": flow(antithetic=True, times="logit_normal"),
    "adaptive": flow(solver="adaptive"),
    "shortcut": flow(variant="shortcut", steps=1),
    "langevin": langevin(),
    "langevin, standard": langevin(source="standard"),
    "gaussian": ("gaussian", HeadsConfig()),
}
every_head = pytest.mark.parametrize("case", HEADS)


def make(case: str, latents: int = 3, random: float = 0.0) -> Head:
    """The head of a case, with normal weights of sd `random` in place of its own when that is not zero."""
    torch.manual_seed(0)
    name, config = HEADS[case]
    head = build_head(name, config, HIDDEN, latents)
    if random:
        randomise(head, random)
    return head


def tokens(latents: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    hidden = torch.randn(2, 6, HIDDEN, generator=generator)
    return hidden, torch.randn(2, 6, latents, generator=generator), torch.ones(2, 6, dtype=torch.bool)


def seeded_loss(head: Head, hidden: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    torch.manual_seed(1)
    return head(hidden, target, mask)


def gradients(head: Head, loss: Tensor) -> dict[str, Tensor]:
    head.zero_grad()
    loss.backward()
    missing = [name for name, parameter in head.named_parameters() if parameter.grad is None]
    assert not missing, f"no gradient reaches {missing}"
    return {name: parameter.grad.clone() for name, parameter in head.named_parameters() if parameter.grad is not None}


@every_head
def test_a_row_is_sampled_from_its_own_generator(case: str) -> None:
    head, hidden = make(case, random=0.3), torch.randn(3, HIDDEN)

    def generators(numbers: list[int]) -> list[torch.Generator]:
        return [torch.Generator().manual_seed(number) for number in numbers]

    with torch.no_grad():
        together = head.sample(hidden, 2, generators([1, 2, 3]))
        alone = head.sample(hidden[1:2], 2, generators([2]))
    assert together.shape == (2, 3, 3)
    torch.testing.assert_close(alone[:, 0], together[:, 1], rtol=1e-4, atol=1e-4)
    assert not torch.allclose(together[0], together[1])
    with pytest.raises(ValueError, match="2 generators for 3 rows"):
        head.sample(hidden, 1, generators([1, 2]))


@every_head
def test_the_same_seed_gives_the_same_draws(case: str) -> None:
    head = make(case, random=0.3)
    assert torch.equal(samples_of(head, 5), samples_of(head, 5))
    assert not torch.allclose(samples_of(head, 5), samples_of(head, 5, seed=2))


@every_head
def test_masked_tokens_do_not_count(case: str) -> None:
    head, (hidden, target, mask) = make(case), tokens()
    mask[:, 4:] = False
    loss = seeded_loss(head, hidden, target, mask)
    target[:, 4:] += 100.0
    assert torch.equal(seeded_loss(head, hidden, target, mask), loss)
    assert float(seeded_loss(head, hidden, target, torch.zeros_like(mask)).detach()) == 0.0


@every_head
def test_gradients_of_a_new_head_are_finite_and_reach_every_parameter(case: str) -> None:
    head, (hidden, target, mask) = make(case), tokens()
    hidden.requires_grad_()
    made = gradients(head, seeded_loss(head, hidden, target, mask))
    assert all(torch.isfinite(gradient).all() for gradient in made.values())
    assert any(gradient.norm() > 0 for gradient in made.values())
    assert hidden.grad is not None
    assert torch.isfinite(hidden.grad).all()


@every_head
def test_bfloat16_autocast_gives_the_gradients_of_float32_to_rounding(case: str) -> None:
    head, (hidden, target, mask) = make(case, random=0.1), tokens()
    exact = gradients(head, seeded_loss(head, hidden, target, mask))
    with torch.autocast("cpu", torch.bfloat16):
        loss = seeded_loss(head, hidden, target, mask)
        assert loss.dtype == torch.float32
        rounded = gradients(head, loss)
        assert torch.isfinite(samples_of(head, 10)).all()
    for name, gradient in exact.items():
        assert float((rounded[name] - gradient).norm()) <= 0.1 * float(gradient.norm()), name


@every_head
def test_of_several_targets_the_loss_is_the_mean(case: str) -> None:
    """Three targets a token against each by itself; exactly the mean where all are used, else in expectation."""
    head, many = make(case, random=0.1), 4000
    torch.manual_seed(0)
    hidden, mask = torch.randn(1, many, HIDDEN), torch.ones(1, many, dtype=torch.bool)
    targets = torch.randn(3, 1, many, 3) * torch.tensor([0.1, 1.0, 2.0]).view(3, 1, 1, 1)
    with torch.no_grad():
        together = seeded_loss(head, hidden, targets, mask)
        apart = torch.stack([seeded_loss(head, hidden, target, mask) for target in targets])
    exact = head.name in ("energy", "gaussian")
    torch.testing.assert_close(together, apart.mean(), rtol=1e-5 if exact else 0.05, atol=1e-6)
    assert float(apart[2] - apart[0]) > 0.1 * float(together)


def test_drawn_targets_take_each_target_equally_often() -> None:
    torch.manual_seed(0)
    targets = torch.arange(3.0).view(3, 1, 1, 1).expand(3, 2, 500, 4)
    drawn = drawn_targets(targets, 5)
    assert drawn.shape == (5, 2, 500, 4)
    assert torch.equal(drawn[..., 0], drawn[..., 3]), "a target is taken as a whole"
    assert all(abs(float((drawn == target).float().mean()) - 1 / 3) < 0.02 for target in range(3))


@pytest.mark.parametrize("case", ["energy", "kernel", "laplace", "crps", "flow", "flow, standard", "langevin"])
def test_both_modes_of_a_bimodal_step_are_found(case: str) -> None:
    head = make(case, latents=1)
    train(head, bimodal_step, steps=400, learning_rate=5e-3, tokens=128)
    samples = samples_of(head)
    assert in_the_middle(samples) < 0.05
    assert 0.4 < float((samples > 0).float().mean()) < 0.6
    assert float(((samples.abs() - 1).abs() < 0.3).float().mean()) > 0.9


def test_a_gaussian_head_fills_the_middle() -> None:
    head = make("gaussian", latents=1)
    train(head, bimodal_step, steps=100, learning_rate=0.03)
    assert in_the_middle(samples_of(head)) > 0.3


def test_masked_mean() -> None:
    loss = torch.tensor([[1.0, 2.0, 9.0]])
    assert float(masked_mean(loss, torch.tensor([[True, True, False]]))) == 1.5


def test_waves_are_sines_and_cosines_of_half_periods() -> None:
    half = waves(torch.tensor([[0.5]]), 4)
    torch.testing.assert_close(half, torch.tensor([[1.0, 0.0, 0.0, -1.0]]), atol=1e-6, rtol=0.0)


def test_unknown_head_names_the_valid_ones() -> None:
    with pytest.raises(ValueError, match="'diffusion' is unknown; valid: energy, flow, gaussian, langevin"):
        build_head("diffusion", HeadsConfig(), 4, 3)
