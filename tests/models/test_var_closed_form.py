"""Rollouts against exact answers: a VAR(1) process driven by a covariate that is known ahead.

    z_{t+1} = A z_t + B u_{t+1} + w_t,   w_t ~ N(0, Q)

Given z at the end of a context and u over the horizon, z h bins later is Gaussian with
mean_h = A mean_{h-1} + B u_h and covariance_h = A covariance_{h-1} A' + Q, and its covariance with the bin after it is
covariance_h A'. Each head is trained on simulated latents, and mean and covariance of its free-running samples at
horizons 1 to 20 are held against these. B batch, T bins, L = 3 latents, K = 2 columns of the drive, H = 20, S samples.
"""

import math
from dataclasses import dataclass, replace
from functools import cache
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from neurochorus.models import CovariateConfig, DynamicsConfig, HeadsConfig, LatentSequence, TransformerConfig
from neurochorus.models.backbones import GRUConfig
from neurochorus.models.dynamics import Dynamics, build_dynamics
from neurochorus.models.heads import EnergyHeadConfig, FlowHeadConfig, GaussianHeadConfig, LangevinHeadConfig

TRANSITION = torch.tensor([[0.90, -0.25, 0.0], [0.25, 0.90, 0.0], [0.1, 0.0, 0.7]])
DRIVE = torch.tensor([[0.35, 0.0], [0.0, -0.25], [0.2, 0.3]])
NOISE_ROOT = torch.tensor([[0.35, 0.0, 0.0], [0.15, 0.3, 0.0], [-0.1, 0.1, 0.35]])
HORIZON, CONTEXT = 20, 8
MEAN_TOLERANCE = 0.2
"""Of the predictive mean, in predictive sd: root mean square over contexts and latents, at every horizon."""
COVARIANCE_TOLERANCE = 0.15
"""Of the covariance of two bins that follow each other, relative to its size (Frobenius), at every horizon."""
HEADS = HeadsConfig(
    energy=EnergyHeadConfig(width=32, blocks=2, samples=4, noise=16),
    flow=FlowHeadConfig(width=32, blocks=2, draws=2, steps=8, solver="midpoint"),
    langevin=LangevinHeadConfig(width=32, blocks=2),
)


def random_drive(batch: int, bins: int, generator: torch.Generator) -> Tensor:
    """Columns of -1 and 1 that change sides with probability 0.15 a bin."""
    flips = torch.where(torch.rand(batch, bins, 2, generator=generator) < 0.15, -1.0, 1.0)
    flips[:, 0] = torch.where(torch.rand(batch, 2, generator=generator) < 0.5, -1.0, 1.0)
    return flips.cumprod(dim=1)


def simulate(drive_BTK: Tensor, generator: torch.Generator) -> Tensor:
    """Latents (B, T, L) of the process, from an arbitrary start."""
    latent_BL, made = torch.randn(len(drive_BTK), 3, generator=generator), []
    for drive_BK in drive_BTK.unbind(dim=1):
        noise_BL = torch.randn(latent_BL.shape, generator=generator) @ NOISE_ROOT.T
        latent_BL = latent_BL @ TRANSITION.T + drive_BK @ DRIVE.T + noise_BL
        made.append(latent_BL)
    return torch.stack(made, dim=1)


def exact_forecast(last_BL: Tensor, drive_BHK: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (B, H, L), and covariance (H - 1, 2 L, 2 L) of each bin and the one after it."""
    mean_BL, covariance_LL, means, covariances = last_BL, torch.zeros(3, 3), [], []
    for drive_BK in drive_BHK.unbind(dim=1):
        mean_BL = mean_BL @ TRANSITION.T + drive_BK @ DRIVE.T
        covariance_LL = TRANSITION @ covariance_LL @ TRANSITION.T + NOISE_ROOT @ NOISE_ROOT.T
        means.append(mean_BL)
        covariances.append(covariance_LL)
    pairs = [
        torch.cat(
            (torch.cat((one, one @ TRANSITION.T), dim=1), torch.cat((TRANSITION @ one, after), dim=1)),
        )
        for one, after in pairwise(covariances)
    ]
    return torch.stack(means, dim=1), torch.stack(pairs)


def sequence(latent_BTL: Tensor, drive_BTK: Tensor | None) -> LatentSequence:
    plain = LatentSequence.plain(latent_BTL)
    if drive_BTK is None:
        return plain
    return replace(plain, covariates_BTK=drive_BTK, covariate_mask_BTK=torch.ones_like(drive_BTK, dtype=torch.bool))


@cache
def trained(
    head: str, backbone: str = "transformer", patch_bins: int = 1, driven: bool = True, steps: int = 400, seed: int = 0
) -> Dynamics:
    """Dynamics trained on 64 windows of 12 bins a step, of a pool of simulated ones."""
    torch.manual_seed(seed)
    columns = {"u": 2} if driven else {}
    config = DynamicsConfig(
        backbone=backbone,  # type: ignore[arg-type]
        transformer=TransformerConfig(width=16, blocks=1, heads=2, feedforward=2, dropout=0.0),
        gru=GRUConfig(width=16, layers=1, dropout=0.0),
        patch_bins=patch_bins,
        covariates={name: CovariateConfig(known="ahead", columns=width) for name, width in columns.items()},
        history_noise=0.0,
        history_scales=[1],
        condition_dropout=0.0,
        gaussian_companion=False,
    )
    heads = replace(HEADS, gaussian=GaussianHeadConfig(rank=3 * patch_bins))
    dynamics = build_dynamics(config, head, heads, 3, 1, 1, columns).train()
    generator = torch.Generator().manual_seed(1)
    drive_BTK = random_drive(1024, 200, generator)
    latent_BTL = simulate(drive_BTK, generator)
    dynamics.increment_sd.copy_(latent_BTL[:, 20:].diff(dim=1).std(dim=(0, 1)))
    slow = set(dynamics.head.parameters()) if head == "energy" else set()
    groups = [
        {"params": [p for p in dynamics.parameters() if p not in slow], "peak": 0.01},
        {"params": list(slow), "peak": 0.005},
    ]
    optimizer = torch.optim.Adam(groups, betas=(0.9, 0.95))
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * min(1.0, (step + 1) / 40) * 0.5 * (1 + math.cos(math.pi * step / steps))
        rows, start = torch.randint(1024, (64,)), int(torch.randint(20, 200 - 12, ()))
        window = slice(start, start + 12)
        given = sequence(latent_BTL[rows, window], drive_BTK[rows, window] if driven else None)
        loss, count, _ = dynamics(given)
        optimizer.zero_grad()
        (loss / count).backward()
        torch.nn.utils.clip_grad_norm_(dynamics.parameters(), 1.0)
        optimizer.step()
    return dynamics.eval()


@dataclass(frozen=True)
class Errors:
    """At each horizon; see the tolerances."""

    mean_H: Tensor
    covariance_H: Tensor

    def within(self, share: float = 1.0) -> tuple[bool, bool]:
        """Whether mean and covariance are within that share of their tolerances."""
        off = self.mean_H.max() / MEAN_TOLERANCE, self.covariance_H.max() / COVARIANCE_TOLERANCE
        return bool(off[0] < share), bool(off[1] < share)

    def __str__(self) -> str:
        mean, covariance = float(self.mean_H.max()), float(self.covariance_H.max())
        return f"at the worst horizon: mean off by {mean:.3f} sd, covariance by {covariance:.3f}"


def forecast_errors(dynamics: Dynamics, temperature: float = 1.0, shuffled: bool = False, samples: int = 300) -> Errors:
    """Of free-running samples from 8 contexts. `shuffled`: each is given the drive of another one over the horizon."""
    generator = torch.Generator().manual_seed(5)
    drive_BTK = random_drive(8, 40 + CONTEXT + HORIZON, generator)
    latent_BTL = simulate(drive_BTK, generator)[:, 40 : 40 + CONTEXT]
    past, ahead = drive_BTK[:, 40 : 40 + CONTEXT], drive_BTK[:, 40 + CONTEXT :]
    mean_BHL, pairs_H = exact_forecast(latent_BTL[:, -1], ahead)
    given = torch.cat((past, ahead.roll(1, dims=0) if shuffled else ahead), dim=1)
    context = sequence(latent_BTL, given if dynamics.covariates is not None else None)
    drawn_BSHL = dynamics.simulate(context, HORIZON, samples, torch.Generator().manual_seed(2), temperature)
    variance_HL = torch.cat((pairs_H[:, :3, :3], pairs_H[-1:, 3:, 3:])).diagonal(dim1=1, dim2=2)
    off_BHL = (drawn_BSHL.mean(dim=1) - mean_BHL) / variance_HL.sqrt()
    around = drawn_BSHL - drawn_BSHL.mean(dim=1, keepdim=True)
    both = torch.cat((around[:, :, :-1], around[:, :, 1:]), dim=-1)
    found_H = torch.einsum("bshi,bshj->hij", both, both) / (len(both) * (samples - 1))
    relative_H = torch.linalg.matrix_norm(found_H - pairs_H) / torch.linalg.matrix_norm(pairs_H)
    return Errors(off_BHL.square().mean(dim=(0, 2)).sqrt(), relative_H)


@pytest.mark.parametrize("head", ["energy", "flow", "gaussian", "langevin"])
def test_every_head_forecasts_as_the_process_does(head: str) -> None:
    errors = forecast_errors(trained(head))
    assert errors.within() == (True, True), str(errors)


@pytest.mark.slow
@pytest.mark.parametrize("head", ["energy", "flow", "gaussian", "langevin"])
def test_with_more_training_the_errors_halve(head: str) -> None:
    """Not the covariance of `langevin`, which its sampler has a share in: 0.097 after 2,000 steps of training."""
    errors = forecast_errors(trained(head, steps=2000), samples=2000)
    assert errors.within(0.8 if head == "langevin" else 0.5) == (True, True), str(errors)


@pytest.mark.parametrize(("backbone", "patch_bins"), [("gru", 1), ("transformer", 2)])
def test_so_do_other_backbones_and_patches(backbone: str, patch_bins: int) -> None:
    errors = forecast_errors(trained("gaussian", backbone, patch_bins))
    assert errors.within() == (True, True), str(errors)


def test_wrong_models_are_outside_the_tolerances() -> None:
    """Noise of 1.3 or 0.7 times the variance, the drive of another trial, and a model that does not read the drive."""
    right = trained("gaussian")
    for factor in (0.7, 1.3):
        assert forecast_errors(right, temperature=factor**0.5).within() == (True, False)
    assert not forecast_errors(right, shuffled=True).within()[0]
    assert not forecast_errors(trained("gaussian", driven=False)).within()[0]
