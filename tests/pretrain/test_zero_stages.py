"""Two ranks with different sessions train the same weights at every ZeRO stage as plain PyTorch does."""

import copy

import pytest
import torch
from torch import Tensor, nn

from neurochorus.data_shards.batch import Batch
from neurochorus.models import AutoencoderConfig, TransformerConfig
from neurochorus.models.autoencoder import Autoencoder
from neurochorus.pretrain.config import (
    DataSection,
    RunConfig,
    RunSection,
    StageSection,
    TrainSection,
    ZeroSection,
)
from neurochorus.pretrain.distributed import Ranks, process_group
from neurochorus.pretrain.engine import Engine
from neurochorus.pretrain.gradient_order import GradientOrder
from neurochorus.pretrain.loop import _step
from neurochorus.pretrain.optimizer import make_optimizer, parameter_groups
from neurochorus.pretrain.stages import Stage
from tests.distributed import run_ranks

UNITS = (7, 11)  # units of the two sessions; a rank holds one session each
STEPS = 3
SECTION = StageSection(steps=STEPS, learning_rate=0.01, weight_decay=0.1)
QUIET = AutoencoderConfig(
    latents=4,
    encoder=TransformerConfig(width=16, blocks=1, heads=2, dropout=0.0),
    unit_dropout=0.0,
    latent_dropout=0.0,
    future_weights={1: 0.5, 3: 1.0},
    observation="negative_binomial",
    history_bins=2,
    decoder_hidden=8,
)


class OneReadInPerSession(nn.Module):
    """What the unit table replaces: each rank uses the module of its own session only."""

    def __init__(self, autoencoder: Autoencoder):
        super().__init__()
        self.config = autoencoder.config
        self.shared = autoencoder
        width = autoencoder.config.encoder.width
        self.own = nn.ModuleList([nn.Linear(width, width) for _ in UNITS])

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        loss, count, parts = self.shared(batch)
        chosen = self.own[int(batch.session_B[0]) - 1]
        extra = chosen(self.shared.session_bias(batch.session_B)).square().sum()
        return loss + extra, count, {**parts, "extra": extra.detach()}


def make_stage(planted: bool) -> Stage:
    torch.manual_seed(0)
    mean = torch.cat((torch.zeros(1), torch.rand(sum(UNITS)) * 0.5 + 0.1))
    autoencoder = Autoencoder(QUIET, "spikes", mean, mean.sqrt(), len(UNITS))
    trained = OneReadInPerSession(autoencoder) if planted else autoencoder
    return Stage("autoencoder", trained, lambda batch: (batch,), "fp32")


def make_batch(rank: int, step: int) -> Batch:
    """Four samples of the rank's session, with padded bins so that ranks differ in their number of valid bins."""
    generator = torch.Generator().manual_seed(10 * step + rank)
    session = (rank + step) % 2
    first = 1 + sum(UNITS[:session])
    signal = torch.poisson(torch.full((4, 12, UNITS[session]), 0.4), generator=generator)
    mask = torch.ones(4, 12, dtype=torch.bool)
    mask[:, 12 - 4 * rank :] = False
    return Batch(
        signal_BTC=signal,
        unit_rows_BC=torch.arange(first, first + UNITS[session]).expand(1 if rank else 4, -1),
        bin_mask_BT=mask,
        session_B=torch.full((4,), session + 1),
        subject_B=torch.ones(4, dtype=torch.long),
        covariates_BTK=torch.zeros(4, 12, 0),
        covariate_mask_BTK=torch.zeros(4, 12, 0, dtype=torch.bool),
        sample_ids=[f"s{session}-{i:06d}" for i in range(4)],
    )


def run_config(zero_stage: int, accumulation: int) -> RunConfig:
    return RunConfig(
        run=RunSection(dir="unused"),
        data=DataSection(path="unused"),
        autoencoder=SECTION,
        dynamics=SECTION,
        train=TrainSection(global_batch=8 * accumulation, micro_batch=4, precision="fp32", gradient_clipping=0.5),
        zero=ZeroSection(stage=zero_stage, persistence_threshold=0),  # type: ignore[arg-type]
    )


def reference_weights(planted: bool, accumulation: int) -> dict[str, Tensor]:
    """Plain PyTorch on the union of both ranks' batches."""
    stage = make_stage(planted)
    optimizer = make_optimizer(parameter_groups(stage, SECTION, 0.25), SECTION)
    for step in range(STEPS):
        batches = [make_batch(rank, 5 * step + micro) for rank in range(2) for micro in range(accumulation)]
        results = [stage(batch) for batch in batches]
        total = torch.stack([loss for loss, _, _ in results]).sum()
        count = torch.stack([count for _, count, _ in results]).sum()
        optimizer.zero_grad()
        (total / count).backward()
        for parameter in stage.parameters():  # a parameter without gradient is stepped as with zero, as DeepSpeed does
            parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        nn.utils.clip_grad_norm_(stage.parameters(), 0.5)
        for group in optimizer.param_groups:
            group["lr"] = SECTION.learning_rate * group["factor"]
        optimizer.step()
    return {name: value.clone() for name, value in stage.state_dict().items()}


def train_under_deepspeed(
    ranks: Ranks, zero_stage: int, planted: bool, accumulation: int, guard: bool
) -> dict[str, Tensor]:
    stage = make_stage(planted)
    engine = Engine(stage, run_config(zero_stage, accumulation), SECTION, ranks)
    order = GradientOrder(stage, ranks) if guard else None
    for step in range(STEPS):
        engine.set_learning_rate(SECTION.learning_rate)
        batches = [make_batch(ranks.rank, 5 * step + micro) for micro in range(accumulation)]
        _step(stage, engine, batches, ranks, False, chance=str(step))
        if order is not None:
            order.check(step)
    weights = engine.state_dict()
    engine.close()
    return weights


def largest_error(weights: dict[str, Tensor], reference: dict[str, Tensor], planted: bool) -> tuple[float, str]:
    """Largest relative error of any parameter's update, and whose."""
    start = make_stage(planted).state_dict()
    moved = {name for name in reference if (reference[name] - start[name]).norm() > 0}
    assert moved, "the reference did not train"
    errors = {
        name: float((weights[name] - reference[name]).norm() / (reference[name] - start[name]).norm()) for name in moved
    }
    worst = max(errors, key=lambda name: errors[name])
    return errors[worst], worst


def compare(cases: list[tuple[int, bool, int]]) -> list[tuple[float, str]]:
    with process_group() as ranks:
        results = []
        for zero_stage, planted, accumulation in cases:
            weights = train_under_deepspeed(ranks, zero_stage, planted, accumulation, guard=False)
            results.append(largest_error(weights, reference_weights(planted, accumulation), planted))
    return results


def guarded(zero_stages: list[int]) -> list[str]:
    messages = []
    with process_group() as ranks:
        for zero_stage in zero_stages:
            try:
                train_under_deepspeed(ranks, zero_stage, planted=True, accumulation=1, guard=True)
                messages.append("not caught")
            except RuntimeError as error:
                messages.append(str(error))
    return messages


@pytest.mark.parametrize("accumulation", [1, 2])
def test_every_zero_stage_trains_like_plain_torch(accumulation: int) -> None:
    for by_rank in run_ranks(compare, 2, [(zero_stage, False, accumulation) for zero_stage in (0, 1, 2, 3)]):
        for zero_stage, (error, name) in enumerate(by_rank):
            assert error < 2e-4, f"ZeRO-{zero_stage}: update of {name} is off by {error:.1e}"


def test_the_comparison_sees_what_zero_does_to_one_module_per_session() -> None:
    (zero_0, zero_1, zero_2), _ = run_ranks(compare, 2, [(0, True, 1), (1, True, 1), (2, True, 1)])
    assert zero_0[0] < 2e-4, "ZeRO-0 fills in missing gradients and is right"
    assert zero_1[0] > 0.1
    assert zero_2[0] > 0.1


def test_the_guard_catches_a_module_that_only_one_rank_uses() -> None:
    for messages in run_ranks(guarded, 2, [1, 2, 3]):
        for message in messages:
            assert "own.0" in message
            assert "ranks got gradients of different parameters" in message


def test_reference_depends_on_the_batches() -> None:
    weights = reference_weights(planted=False, accumulation=1)
    other = copy.deepcopy(weights)
    other["read_in_rows.weight" if "read_in_rows.weight" in other else "trained.read_in_rows.weight"][3] += 1.0
    assert largest_error(other, weights, planted=False)[0] > 0.1
