"""Checkpoints of real ranks: continued on other ranks and at other ZeRO stages, and one rank's full disk.

After a change of ranks or stage, weights and Adam moments are the same bit for bit, and the next step is to rounding.
"""

import resource
from pathlib import Path

import pytest
import torch
from torch import Tensor

from neurochorus.pretrain.checkpoint import Checkpoints
from neurochorus.pretrain.distributed import Ranks, process_group
from neurochorus.pretrain.engine import Engine
from neurochorus.pretrain.loop import _step
from neurochorus.pretrain.position import Position
from neurochorus.pretrain.retention import Retention
from neurochorus.pretrain.saved_state import WEIGHT, SavedState
from tests.distributed import run_ranks
from tests.pretrain.test_zero_stages import SECTION, STEPS, make_batch, make_stage, run_config

ZERO_STAGES = (0, 1, 2, 3)
Weights = dict[str, Tensor]


def make_engine(ranks: Ranks, zero_stage: int, other_weights: bool = False) -> Engine:
    stage = make_stage(planted=False)
    if other_weights:
        with torch.no_grad():
            for parameter in stage.parameters():
                parameter.add_(torch.randn_like(parameter))
    return Engine(stage, run_config(zero_stage, accumulation=1), SECTION, ranks)


def make_step(engine: Engine, ranks: Ranks, step: int) -> None:
    """A step on two micro-batches, which one or two ranks share."""
    engine.set_learning_rate(SECTION.learning_rate)
    batches = [make_batch(rank, step) for rank in range(2)][ranks.rank :: ranks.world]
    _step(engine.module, engine, batches, ranks, False, str(step))  # type: ignore[arg-type]


def train_and_save(folder: str) -> list[tuple[Weights, list[str]]]:
    """Save each ZeRO stage after a few steps; the weights a step later, and what was said of a full disk."""
    outcomes = []
    with process_group() as ranks:
        for zero_stage in ZERO_STAGES:
            engine = make_engine(ranks, zero_stage)
            for step in range(STEPS):
                make_step(engine, ranks, step)
            engine.save(folder, f"zero_{zero_stage}")
            said = save_with_a_full_disk(engine, Path(folder) / f"full_{zero_stage}", ranks)
            make_step(engine, ranks, STEPS)
            outcomes.append((engine.state_dict(), said))
            engine.close()
    return outcomes


def save_with_a_full_disk(engine: Engine, folder: Path, ranks: Ranks) -> list[str]:
    """Save three times, the second time with no room for the files of the last rank that writes any."""
    checkpoints, before, said = Checkpoints(folder, Retention(9), ranks, print), None, []
    victim = 0 if engine.zero_stage == 0 else ranks.world - 1
    for step in (1, 2, 3):
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        if step == 2 and ranks.rank == victim:
            resource.setrlimit(resource.RLIMIT_FSIZE, (2000, before[1]))
        try:
            checkpoints.save(engine, Position(step, step, ranks.world, engine.zero_stage, {}))
        except OSError as error:
            said.append(str(error))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
    return said


def convert(folder: str, cases: list[tuple[int, int]]) -> list[Weights]:
    """Load each checkpoint into an engine of another stage, save it there, and make a step: the weights then."""
    weights = []
    with process_group() as ranks:
        for source, target in cases:
            engine = make_engine(ranks, target, other_weights=True)
            engine.load(folder, f"zero_{source}", same_layout=False)
            engine.save(folder, f"zero_{source}_as_{target}_on_{ranks.world}")
            make_step(engine, ranks, STEPS)
            weights.append(engine.state_dict())
            engine.close()
    return weights


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("checkpoints")


@pytest.fixture(scope="module")
def saved(folder: Path) -> list[list[tuple[Weights, list[str]]]]:
    """By rank and ZeRO stage, what `train_and_save` returns."""
    return run_ranks(train_and_save, 2, str(folder))


def test_a_full_disk_of_one_rank_is_told_by_all_and_leaves_no_trace(folder: Path, saved: list[list[tuple]]) -> None:
    for by_stage in saved:
        for zero_stage, (_, said) in enumerate(by_stage):
            (message,) = said
            assert f"step_00000002: could not be written (rank {1 if zero_stage else 0}: " in message
            assert "File too large" in message
            there = sorted(path.name for path in (folder / f"full_{zero_stage}").iterdir())
            assert there == ["step_00000001", "step_00000003"]


def test_one_rank_continues_two_at_another_zero_stage(folder: Path, saved: list[list[tuple]]) -> None:
    check(folder, saved, 1, [(0, 2), (1, 3), (2, 0), (3, 1)])


@pytest.mark.slow
@pytest.mark.parametrize("world", [1, 2])
def test_every_change_of_stage(folder: Path, saved: list[list[tuple]], world: int) -> None:
    check(folder, saved, world, [(source, target) for source in ZERO_STAGES for target in ZERO_STAGES])


def check(folder: Path, saved: list[list[tuple]], world: int, cases: list[tuple[int, int]]) -> None:
    for (source, target), weights in zip(cases, run_ranks(convert, world, str(folder), cases)[0]):
        before = everything(folder / f"zero_{source}")
        after = everything(folder / f"zero_{source}_as_{target}_on_{world}")
        assert before.keys() == after.keys()
        assert [name for name in before if not torch.equal(before[name], after[name])] == []
        for name, expected in saved[0][source][0].items():
            torch.testing.assert_close(weights[name], expected, rtol=1e-4, atol=1e-5, msg=f"{source} {target} {name}")


def everything(checkpoint: Path) -> dict[str, Tensor]:
    """Weights, moments and the step count in a checkpoint."""
    saved = SavedState(checkpoint)
    assert saved.moments == ["exp_avg", "exp_avg_sq"]
    assert saved.step is not None
    tensors = {f"{name} {what}": saved.read(name, what) for name in saved.names for what in (WEIGHT, *saved.moments)}
    return {**tensors, "step": saved.step}
