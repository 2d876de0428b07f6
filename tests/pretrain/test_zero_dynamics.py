"""Dynamics on two ranks whose batches hold different things train at every ZeRO stage as in plain PyTorch.

One rank has covariates and long windows, the other neither covariates nor a past: windows of one patch.
"""

import pytest
import torch
from torch import Tensor, nn

from neurochorus.data_shards.batch import Batch
from neurochorus.models import CovariateConfig, DynamicsConfig, HeadsConfig, LatentSequence, TransformerConfig
from neurochorus.models.backbones import GRUConfig
from neurochorus.models.dynamics import build_dynamics
from neurochorus.pretrain.distributed import process_group
from neurochorus.pretrain.engine import Engine
from neurochorus.pretrain.gradient_order import GradientOrder
from neurochorus.pretrain.loop import _step
from neurochorus.pretrain.optimizer import make_optimizer, parameter_groups
from neurochorus.pretrain.stages import Stage
from tests.distributed import run_ranks
from tests.pretrain.test_zero_stages import SECTION, STEPS, run_config


def make_stage(backbone: str) -> Stage:
    torch.manual_seed(0)
    config = DynamicsConfig(
        backbone=backbone,  # type: ignore[arg-type]
        transformer=TransformerConfig(width=16, blocks=1, heads=2, dropout=0.0, attention_window=3),
        gru=GRUConfig(width=16, layers=2, dropout=0.0),
        patch_bins=2,
        covariates={"stimulus": CovariateConfig(known="ahead", lag_bins=3), "running": CovariateConfig(lag_bins=2)},
        history_noise=0.0,
        condition_dropout=0.0,
        covariate_endings=0.0,
    )
    dynamics = build_dynamics(config, "gaussian", HeadsConfig(), 4, 2, 1, {"stimulus": 2, "running": 1})
    return Stage("dynamics", dynamics, lambda batch: (LatentSequence.of(batch.signal_BTC, batch),), "fp32")


def make_batch(rank: int, step: int) -> Batch:
    """Four samples whose "signal" is their latents."""
    generator = torch.Generator().manual_seed(10 * step + rank)
    bins = 2 if rank else 12
    covariates = torch.randn(4, bins, 3, generator=generator)
    return Batch(
        signal_BTC=torch.randn(4, bins, 4, generator=generator),
        unit_rows_BC=torch.ones(1, 4, dtype=torch.long),
        bin_mask_BT=torch.ones(4, bins, dtype=torch.bool),
        session_B=torch.full((4,), rank + 1),
        subject_B=torch.ones(4, dtype=torch.long),
        covariates_BTK=covariates * (1 - rank),
        covariate_mask_BTK=torch.full((4, bins, 3), rank == 0),
        sample_ids=[f"s{rank}-{i:06d}" for i in range(4)],
    )


def reference_weights(backbone: str) -> dict[str, Tensor]:
    stage = make_stage(backbone)
    optimizer = make_optimizer(parameter_groups(stage, SECTION, 0.25), SECTION)
    for step in range(STEPS):
        results = [stage(*stage.prepare(make_batch(rank, step))) for rank in range(2)]
        total, count = (torch.stack([result[part] for result in results]).sum() for part in (0, 1))
        optimizer.zero_grad()
        (total / count).backward()
        assert all(parameter.grad is not None for parameter in stage.parameters())
        nn.utils.clip_grad_norm_(stage.parameters(), 0.5)
        for group in optimizer.param_groups:
            group["lr"] = SECTION.learning_rate * group["factor"]
        optimizer.step()
    return {name: value.clone() for name, value in stage.state_dict().items()}


def largest_errors(backbone: str) -> list[tuple[float, str]]:
    """Of ZeRO-0 to 3: the largest relative error of any parameter's update, and whose."""
    start, reference, errors = make_stage(backbone).state_dict(), reference_weights(backbone), []
    with process_group() as ranks:
        for zero_stage in (0, 1, 2, 3):
            stage = make_stage(backbone)
            engine = Engine(stage, run_config(zero_stage, 1), SECTION, ranks)
            order = GradientOrder(stage, ranks)
            for step in range(STEPS):
                engine.set_learning_rate(SECTION.learning_rate)
                _step(stage, engine, [make_batch(ranks.rank, step)], ranks, False, chance=str(step))
                order.check(step)
            weights = engine.state_dict()
            engine.close()
            moved = {name: (reference[name] - start[name]).norm() for name in reference}
            relative = {
                float((weights[name] - reference[name]).norm() / moved[name]): name for name in moved if moved[name] > 0
            }
            errors.append((max(relative), relative[max(relative)]))
    return errors


@pytest.mark.parametrize("backbone", ["transformer", "gru"])
def test_every_zero_stage_trains_like_plain_torch(backbone: str) -> None:
    for by_stage in run_ranks(largest_errors, 2, backbone):
        for zero_stage, (error, name) in enumerate(by_stage):
            assert error < 2e-4, f"ZeRO-{zero_stage}: update of {name} is off by {error:.1e}"
