"""Checkpoints of real ranks: continued on other ranks and at other ZeRO stages, and one rank that cannot write.

After a change of ranks or stage, weights and Adam moments are the same bit for bit, and the next step is to rounding.
"""

import os
import resource
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

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
NOBODY = 65534
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
    """Save each ZeRO stage after a few steps; the weights a step later, and what was said where a rank cannot write."""
    outcomes = []
    with process_group() as ranks:
        for zero_stage in ZERO_STAGES:
            engine = make_engine(ranks, zero_stage)
            for step in range(STEPS):
                make_step(engine, ranks, step)
            engine.save(folder, f"zero_{zero_stage}").result()
            said = [
                message
                for behind in (False, True)
                for message in save_where_a_rank_cannot(engine, hindered(folder, zero_stage, behind), ranks, behind)
            ]
            save_behind_a_step(engine, Path(folder), f"zero_{zero_stage}_behind", ranks)
            outcomes.append((engine.state_dict(), said))
            engine.close()
    return outcomes


def hindered(folder: str | Path, zero_stage: int, behind: bool) -> Path:
    return Path(folder) / f"hindered_{zero_stage}_{behind}"


def save_behind_a_step(engine: Engine, folder: Path, tag: str, ranks: Ranks) -> None:
    """Make a step after saving began and before the first file is opened."""
    gate, write = threading.Event(), engine._writer._write

    def write_later(path: str, fill: Callable[[Any], object]) -> None:
        gate.wait()
        write(path, fill)

    engine._writer._write = write_later
    files = engine.save(str(folder), tag, behind=True)
    make_step(engine, ranks, STEPS)
    too_early = list((folder / tag).glob("*.pt"))
    ranks.barrier()
    gate.set()
    files.result()
    assert too_early == []
    engine._writer._write = write


def save_where_a_rank_cannot(engine: Engine, folder: Path, ranks: Ranks, behind: bool) -> list[str]:
    """Save after each of five steps; at the second the last rank that writes files has no room, at the fourth no
    permission. What was said."""
    checkpoints, said = Checkpoints(folder, Retention(9), ranks, print), []
    victim = 0 if engine.zero_stage == 0 else ranks.world - 1
    for step in (1, 2, 3, 4, 5):
        own = ranks.rank == victim
        with full_disk(own and step == 2), no_permission(own and step == 4):
            try:
                checkpoints.save(engine, Position(step, step, ranks.world, engine.zero_stage, {}), behind)
                while behind and not checkpoints.written():
                    time.sleep(0.01)
                checkpoints.finish()
            except OSError as error:
                said.append(str(error))
    return said


@contextmanager
def full_disk(really: bool) -> Iterator[None]:
    """No file can grow beyond some bytes while inside."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    if really:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@contextmanager
def no_permission(really: bool) -> Iterator[None]:
    """Be another user while inside; only root can."""
    if really and os.getuid() == 0:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(os.getuid())


def convert(folder: str, cases: list[tuple[int, int]]) -> list[Weights]:
    """Load each checkpoint into an engine of another stage, save it there, and make a step: the weights then."""
    weights = []
    with process_group() as ranks:
        for source, target in cases:
            engine = make_engine(ranks, target, other_weights=True)
            engine.load(folder, f"zero_{source}", same_layout=False)
            engine.save(folder, f"zero_{source}_as_{target}_on_{ranks.world}").result()
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


def test_what_keeps_one_rank_from_writing_is_told_by_all_and_leaves_no_trace(
    folder: Path, saved: list[list[tuple]]
) -> None:
    causes = {2: "File too large", 4: "Permission denied"} if os.getuid() == 0 else {2: "File too large"}
    for by_stage in saved:
        for zero_stage, (_, said) in enumerate(by_stage):
            assert len(said) == 2 * len(causes), "at once and behind"
            for message, (step, cause) in zip(said, [*causes.items()] * 2):
                assert f"step_{step:08d}: could not be written (rank {1 if zero_stage else 0}: " in message
                assert cause in message
            for behind in (False, True):
                there = {path.name for path in hindered(folder, zero_stage, behind).iterdir()}
                assert there == {f"step_{step:08d}" for step in range(1, 6) if step not in causes}


def test_what_is_written_behind_a_step_is_the_same_to_the_byte(folder: Path, saved: list[list[tuple]]) -> None:
    for zero_stage in ZERO_STAGES:
        at_once, behind = (folder / f"zero_{zero_stage}{suffix}" for suffix in ("", "_behind"))
        contents = [{path.name: path.read_bytes() for path in where.iterdir()} for where in (at_once, behind)]
        assert contents[0].keys() == contents[1].keys()
        assert [name for name in contents[0] if contents[0][name] != contents[1][name]] == []


def test_one_rank_continues_two_at_another_zero_stage(folder: Path, saved: list[list[tuple]]) -> None:
    check(folder, saved, 1, [(0, 2), (1, 3), (2, 0), (3, 1)])


@pytest.mark.slow
@pytest.mark.parametrize("world", [1, 2])
def test_every_change_of_stage(folder: Path, saved: list[list[tuple]], world: int) -> None:
    check(folder, saved, world, [(source, target) for source in ZERO_STAGES for target in ZERO_STAGES])


def check(folder: Path, saved: list[list[tuple]], world: int, cases: list[tuple[int, int]]) -> None:
    largest = 0.0
    for (source, target), weights in zip(cases, run_ranks(convert, world, str(folder), cases)[0]):
        before = everything(folder / f"zero_{source}")
        after = everything(folder / f"zero_{source}_as_{target}_on_{world}")
        assert before.keys() == after.keys()
        assert [name for name in before if not torch.equal(before[name], after[name])] == []
        for name, expected in saved[0][source][0].items():
            torch.testing.assert_close(weights[name], expected, rtol=1e-4, atol=1e-5, msg=f"{source} {target} {name}")
            largest = max(largest, float((weights[name] - expected).abs().max()))
    print(f"{len(cases)} changes of stage from 2 ranks to {world}: weights a step later within {largest:.1e}")


def everything(checkpoint: Path) -> dict[str, Tensor]:
    """Weights, moments and the step count in a checkpoint."""
    saved = SavedState(checkpoint)
    assert saved.moments == ["exp_avg", "exp_avg_sq"]
    assert saved.step is not None
    tensors = {f"{name} {what}": saved.read(name, what) for name in saved.names for what in (WEIGHT, *saved.moments)}
    return {**tensors, "step": saved.step}
