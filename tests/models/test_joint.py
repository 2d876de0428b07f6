"""The joint phase: what its score is, and that gradients flow through a rollout."""

import numpy as np
import pytest
import scoringrules
import torch

from neurochorus.models.backbones import GRUConfig, TransformerConfig
from neurochorus.models.dynamics import CausalDynamics, DynamicsConfig, LatentSequence
from neurochorus.models.dynamics.joint import JointConfig, JointPhase, stretch_score, unroll
from neurochorus.models.heads import HeadsConfig

START = 8


def dynamics(head: str = "energy", samples: int = 4, **changes: object) -> CausalDynamics:
    torch.manual_seed(0)
    config = DynamicsConfig(
        transformer=TransformerConfig(width=16, blocks=2, heads=2, dropout=0.0),
        gru=GRUConfig(width=16, dropout=0.0),
        joint=JointConfig(bins=4, samples=samples),
        **changes,  # type: ignore[arg-type]
    )
    made = CausalDynamics(config, head, HeadsConfig(), 3, 1, 1)
    made.increment_sd.copy_(torch.tensor([0.5, 1.0, 2.0]))
    with torch.no_grad():  # zero-initialised outputs would hide what flows through them
        for parameter in made.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return made


@pytest.mark.parametrize("patch_bins", [1, 2])
def test_it_is_the_fair_energy_score_of_the_whole_stretch(patch_bins: int) -> None:
    model = dynamics(patch_bins=patch_bins).eval()
    sequence = LatentSequence.plain(torch.randn(5, 20, 3))
    torch.manual_seed(1)
    found = stretch_score(model, sequence, START).detach()
    torch.manual_seed(1)
    made_RHL = unroll(model, LatentSequence.plain(sequence.latent_BTL[:, :START]), 4, 4).detach()
    scale = model.increment_sd.numpy() * np.sqrt(np.arange(1, 5))[:, None]
    made = made_RHL.unflatten(0, (5, 4)).numpy() / scale
    wanted = sequence.latent_BTL[:, START : START + 4].numpy() / scale
    score = scoringrules.es_ensemble(wanted.reshape(5, 12), made.reshape(5, 4, 12), estimator="fair")
    assert float(found) == pytest.approx(2 * score.sum() * 20 / 12**0.5, rel=1e-4)


def test_a_window_with_a_padded_stretch_does_not_count() -> None:
    model = dynamics().eval()
    sequence = LatentSequence.plain(torch.randn(2, 20, 3))
    sequence.mask_BT[1, START + 2 :] = False
    torch.manual_seed(1)
    both = stretch_score(model, sequence, START)
    sequence.latent_BTL[1, START:] = 100.0
    torch.manual_seed(1)
    assert torch.equal(stretch_score(model, sequence, START), both)


@pytest.mark.parametrize("head", ["energy", "flow", "gaussian"])
@pytest.mark.parametrize("backbone", ["transformer", "gru"])
def test_every_parameter_learns_from_it(head: str, backbone: str) -> None:
    model = dynamics(head, backbone=backbone, gaussian_companion=False).train()
    stretch_score(model, LatentSequence.plain(torch.randn(3, 20, 3)), START).backward()
    silent = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert not silent


def test_gradient_through_the_rollout_is_that_of_finite_differences() -> None:
    model = dynamics().eval()
    sequence = LatentSequence.plain(torch.randn(2, 20, 3))
    weight = model.read.weight

    def score() -> torch.Tensor:
        torch.manual_seed(1)
        return stretch_score(model, sequence, START)

    (gradient,) = torch.autograd.grad(score(), weight)
    direction = torch.randn_like(weight)
    with torch.no_grad():
        weight.add_(1e-2 * direction)
        above = score()
        weight.sub_(2e-2 * direction)
        slope = (above - score()) / 2e-2
    assert float(slope) == pytest.approx(float((gradient * direction).sum()), rel=2e-2)


def test_it_learns_what_hangs_together_over_tokens() -> None:
    """Each window drifts one way: what a few unrolled steps teach is visible in the spread of the stretch."""
    torch.manual_seed(0)
    sign_B11 = torch.randint(0, 2, (256, 1, 1)) * 2.0 - 1
    drift_BTL = (sign_B11 + 0.3 * torch.randn(256, 20, 3)).cumsum(dim=1) * 0.2
    model = dynamics().train()
    model.increment_sd.fill_(0.2)
    phase = JointPhase(model)
    optimizer = torch.optim.Adam(phase.parameters(), lr=3e-3)
    losses = []
    for _ in range(60):
        window = drift_BTL[torch.randint(0, 256, (32,))]
        loss, count, _ = phase(LatentSequence.plain(window))
        optimizer.zero_grad()
        (loss / count).backward()
        optimizer.step()
        losses.append(float(loss.detach() / count))
    assert np.mean(losses[-10:]) < 0.7 * np.mean(losses[:10])


def test_windows_without_room_for_a_stretch_are_refused() -> None:
    with pytest.raises(ValueError, match=r"windows of 4 bins.*joint\.bins"):
        JointPhase(dynamics())(LatentSequence.plain(torch.randn(2, 4, 3)))


def test_parts_of_the_loss_are_told_apart() -> None:
    phase = JointPhase(dynamics()).eval()
    torch.manual_seed(0)
    loss, count, parts = phase(LatentSequence.plain(torch.randn(3, 20, 3)))
    assert set(parts) == {"joint", "energy", "companion"}
    assert int(count) == 60
    assert float(loss.detach()) == pytest.approx(
        float(parts["joint"] + 0.5 * (parts["energy"] + parts["companion"])), rel=1e-5
    )
