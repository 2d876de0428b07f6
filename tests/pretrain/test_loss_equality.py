"""The same losses, step by step, whatever the ranks, the ZeRO stage, accumulation and offload: those of plain PyTorch.

Batches come from the loader and all that is random in training is on, so ranks hold different sessions, and each
micro-batch its own noise.
"""

import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

import pytest
import torch
from torch import nn

from neurochorus.data_shards.batch import Batch
from neurochorus.data_shards.corpus import Corpus
from neurochorus.data_shards.loader import training_batches
from neurochorus.data_shards.plan import SamplePlan
from neurochorus.data_shards.registry import UnitRegistry
from neurochorus.data_shards.writer import write_dataset
from neurochorus.models import (
    AutoencoderConfig,
    DynamicsConfig,
    HeadsConfig,
    ModelConfig,
    NeuralModel,
    TransformerConfig,
    UnitStatistics,
)
from neurochorus.models.heads import EnergyHeadConfig, FlowHeadConfig
from neurochorus.pretrain.config import DataSection, RunConfig, RunSection, StageSection, TrainSection, ZeroSection
from neurochorus.pretrain.distributed import Ranks, process_group
from neurochorus.pretrain.engine import Engine
from neurochorus.pretrain.gradient_order import GradientOrder
from neurochorus.pretrain.loop import _step, seed_micro_batch
from neurochorus.pretrain.optimizer import make_optimizer, parameter_groups
from neurochorus.pretrain.schedules import learning_rate
from neurochorus.pretrain.stages import Stage, dynamics_stage
from tests.data_shards.conftest import small_recording
from tests.distributed import run_ranks

STEPS, MICRO_BATCH, GLOBAL_BATCH = 20, 4, 16
SECTION = StageSection(steps=STEPS, learning_rate=3e-3)
CLIPPING = 0.5


@dataclass(frozen=True)
class Case:
    head: str
    zero: int
    offload_optimizer: bool = False
    offload_parameters: bool = False
    recompute: str = "none"
    compile: bool = False


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("equality") / "data"
    units = {"a1": 5, "b1": 8, "c1": 3}
    sessions = [small_recording(name, f"of_{name}", count, 60, count) for name, count in units.items()]
    write_dataset(sessions, path, name="small", sample_bins=12)
    return path


def make_stage(head: str, corpus: Corpus) -> Stage:
    torch.manual_seed(0)
    transformer = TransformerConfig(width=16, blocks=2, heads=2)
    config = ModelConfig(
        head=head,  # type: ignore[arg-type]
        autoencoder=AutoencoderConfig(latents=4, encoder=transformer),
        dynamics=DynamicsConfig(transformer=transformer),
        heads=HeadsConfig(energy=EnergyHeadConfig(width=16, blocks=1), flow=FlowHeadConfig(width=16, blocks=1)),
    )
    model = NeuralModel(config, UnitRegistry.from_sessions(corpus.sessions), UnitStatistics.of(corpus.sessions))
    return dynamics_stage(model, "fp32").train()


def batches_of(corpus: Corpus, rank: int, world: int) -> Iterator[Batch]:
    plan = SamplePlan.from_corpus(corpus, "train", seed=1, group=MICRO_BATCH)
    registry = UnitRegistry.from_sessions(corpus.sessions)
    return training_batches(corpus, plan, registry, micro_batch=MICRO_BATCH, rank=rank, world=world)


def plain_losses(head: str, data: Path) -> list[float]:
    """Plain PyTorch, one process, all micro-batches of a step in one sum."""
    corpus = Corpus(data)
    stage = make_stage(head, corpus)
    optimizer = make_optimizer(parameter_groups(stage, SECTION, 0.25), SECTION)
    batches, losses = batches_of(corpus, 0, 1), []
    for step in range(STEPS):
        results = []
        for number, batch in enumerate(islice(batches, GLOBAL_BATCH // MICRO_BATCH)):
            seed_micro_batch(str(step), number)
            results.append(stage(*stage.prepare(batch)))
        total = torch.stack([result[0] for result in results]).sum() / sum(int(result[1]) for result in results)
        optimizer.zero_grad()
        total.backward()
        nn.utils.clip_grad_norm_(stage.parameters(), CLIPPING)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, SECTION) * group["factor"]
        optimizer.step()
        losses.append(float(total.detach()))
    return losses


def losses_under_deepspeed(case: Case, data: Path, ranks: Ranks) -> tuple[list[float], list[set[int]]]:
    """Loss of each step, and the sessions that this rank held in it."""
    corpus = Corpus(data)
    config = RunConfig(
        run=RunSection(dir="unused"),
        data=DataSection(path="unused"),
        autoencoder=SECTION,
        dynamics=SECTION,
        train=TrainSection(
            global_batch=GLOBAL_BATCH,
            micro_batch=MICRO_BATCH,
            precision="fp32",
            gradient_clipping=CLIPPING,
            activation_checkpointing=case.recompute,  # type: ignore[arg-type]
            compile=case.compile,
        ),
        zero=ZeroSection(
            stage=case.zero,  # type: ignore[arg-type]
            persistence_threshold=0,
            offload_optimizer=case.offload_optimizer,
            offload_parameters=case.offload_parameters,
        ),
    )
    stage = make_stage(case.head, corpus)
    engine, order = Engine(stage, config, SECTION, ranks), GradientOrder(stage, ranks)
    batches, losses, sessions = batches_of(corpus, ranks.rank, ranks.world), [], []
    for step in range(STEPS):
        engine.set_learning_rate(learning_rate(step, SECTION))
        own = list(islice(batches, engine.accumulation))
        sums, _ = _step(stage, engine, own, ranks, False, chance=str(step))
        order.check(step)
        losses.append(float(sums["loss"]))
        sessions.append({int(number) for batch in own for number in batch.session_B})
    engine.close()
    return losses, sessions


def on_ranks(cases: list[Case], data: Path) -> list[tuple[list[float], list[set[int]]]]:
    with process_group() as ranks:
        return [losses_under_deepspeed(case, data, ranks) for case in cases]


def compare(cases: list[Case], world: int, data: Path) -> None:
    expected = {head: torch.tensor(plain_losses(head, data)) for head in {case.head for case in cases}}
    by_rank = run_ranks(on_ranks, world, cases, data, timeout_s=1500)
    largest = 0.0
    for number, case in enumerate(cases):
        held = [sessions for _, sessions in (results[number] for results in by_rank)]
        assert world == 1 or sum(one != other for one, other in zip(held[0], held[-1])) > STEPS // 4
        for results in by_rank:
            error = float((torch.tensor(results[number][0]) / expected[case.head] - 1).abs().max())
            largest = max(largest, error)
            assert error < 1e-5, f"{asdict(case)} on {world} ranks: the losses are off by {error:.1e}"
    print(f"{len(cases)} cases on {world} ranks: losses within {largest:.1e}")


def test_two_ranks_have_the_losses_of_plain_torch(data: Path) -> None:
    cases = [
        Case("energy", 2, offload_optimizer=True, recompute="selective"),
        Case("flow", 3, offload_optimizer=True, offload_parameters=True, recompute="full"),
    ]
    compare(cases, 2, data)


@pytest.mark.slow
@pytest.mark.parametrize("world", [1, 2, 4])
def test_every_layout_has_the_losses_of_plain_torch(data: Path, world: int) -> None:
    """Four micro-batches a step: 4, 2 and 1 accumulated."""
    layouts = [(0, False, False), (1, False, False), (2, False, False), (3, False, False)]
    layouts += [(1, True, False), (2, True, False), (3, True, False), (3, False, True), (3, True, True)]
    compare([Case(head, *layout) for head in ("energy", "flow") for layout in layouts], world, data)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on CPUs")
def test_compiled_blocks_have_the_losses_of_plain_torch(data: Path) -> None:
    cases = [Case("energy", zero, compile=True) for zero in (0, 1, 2)]
    compare([*cases, Case("flow", 2, recompute="full", compile=True)], 2, data)
