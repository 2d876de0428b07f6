"""Heads that differentiate twice or call themselves without gradient train at ZeRO-2 and 3 as plain PyTorch does."""

import torch
from torch import Tensor, nn

from neurochorus.models.heads import FlowHeadConfig, HeadsConfig, LangevinHeadConfig, build_head
from neurochorus.pretrain.config import DataSection, RunConfig, RunSection, StageSection, TrainSection, ZeroSection
from neurochorus.pretrain.distributed import process_group
from neurochorus.pretrain.engine import Engine
from neurochorus.pretrain.gradient_order import GradientOrder
from neurochorus.pretrain.optimizer import make_optimizer, parameter_groups
from tests.distributed import run_ranks

HEADS = HeadsConfig(
    flow=FlowHeadConfig(width=16, blocks=1, variant="shortcut", steps=1, source="hidden", draws=1),
    langevin=LangevinHeadConfig(width=16, blocks=1, draws=1),
)
STEPS, BATCH, TOKENS, LATENTS = 3, 4, 6, 3
SECTION = StageSection(steps=STEPS, learning_rate=0.01)


class HeadOnHidden(nn.Module):
    """A head behind one layer, so that gradients must reach what makes the hidden state too."""

    def __init__(self, name: str):
        super().__init__()
        torch.manual_seed(0)
        self.backbone = nn.Linear(LATENTS, 8)
        self.head = build_head(name, HEADS, hidden=8, latents=LATENTS)
        for parameter in self.head.parameters():
            nn.init.normal_(parameter, std=0.2)  # the layers that start at zero would hide wrong gradients of others

    def forward(self, past_BTL: Tensor, target_BTL: Tensor, mask_BT: Tensor) -> Tensor:
        return self.head(self.backbone(past_BTL), target_BTL, mask_BT) * mask_BT.sum()


def inputs(rank: int, step: int) -> tuple[Tensor, Tensor, Tensor]:
    """A rank's tokens, of which the second rank has fewer; seeds what the head draws in training too."""
    torch.manual_seed(100 + 10 * step + rank)
    mask_BT = torch.ones(BATCH, TOKENS, dtype=torch.bool)
    mask_BT[:, TOKENS - 3 * rank :] = False
    return torch.randn(BATCH, TOKENS, LATENTS), torch.randn(BATCH, TOKENS, LATENTS), mask_BT


def valid_tokens() -> float:
    return float(sum(inputs(rank, 0)[2].sum() for rank in range(2)))


def reference_weights(name: str) -> dict[str, Tensor]:
    """Plain PyTorch on the batches of both ranks."""
    module = HeadOnHidden(name)
    optimizer = make_optimizer(parameter_groups(module, SECTION, 0.25), SECTION)
    for step in range(STEPS):
        optimizer.zero_grad()
        total = torch.stack([module(*inputs(rank, step)) for rank in range(2)]).sum()
        (total / valid_tokens()).backward()
        nn.utils.clip_grad_norm_(module.parameters(), 0.5)
        optimizer.step()
    return {key: value.clone() for key, value in module.state_dict().items()}


def weights_under_deepspeed(cases: list[tuple[str, int]]) -> list[dict[str, Tensor]]:
    results = []
    with process_group() as ranks:
        for name, zero_stage in cases:
            config = RunConfig(
                run=RunSection(dir="unused"),
                data=DataSection(path="unused"),
                autoencoder=SECTION,
                dynamics=SECTION,
                train=TrainSection(global_batch=2 * BATCH, micro_batch=BATCH, precision="fp32", gradient_clipping=0.5),
                zero=ZeroSection(stage=zero_stage, persistence_threshold=0),  # type: ignore[arg-type]
            )
            module = HeadOnHidden(name)
            engine, order = Engine(module, config, SECTION, ranks), GradientOrder(module, ranks)
            for step in range(STEPS):
                engine.set_learning_rate(SECTION.learning_rate)
                engine.backward_and_step(engine(*inputs(ranks.rank, step)) * (2 / valid_tokens()))
                order.check(step)
            results.append(engine.state_dict())
            engine.close()
    return results


def test_heads_train_at_zero_2_and_3_like_plain_torch() -> None:
    cases = [(name, zero_stage) for name in ("langevin", "flow") for zero_stage in (2, 3)]
    by_rank = run_ranks(weights_under_deepspeed, 2, cases)
    for (name, zero_stage), *made in zip(cases, *by_rank, strict=True):
        start, reference = HeadOnHidden(name).state_dict(), reference_weights(name)
        for key in reference:
            moved = float((reference[key] - start[key]).norm())
            assert moved > 0, f"{name}: the reference did not train {key}"
            for weights in made:
                error = float((weights[key] - reference[key]).norm()) / moved
                assert error < 1e-4, f"{name} at ZeRO-{zero_stage}: update of {key} is off by {error:.1e}"
