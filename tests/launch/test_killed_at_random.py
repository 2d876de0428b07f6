"""A training run that is killed again and again, at any moment, ends with the weights of one that is not.

KILLS=50 SEED=0 python -m pytest -m slow_kill tests/launch/test_killed_at_random.py        (make test-kill)
"""

import contextlib
import os
import random
import signal
import time
from pathlib import Path

import psutil
import pytest
import torch

from neurochorus.models import load
from tests.launch.disturbing import DisturbedRun, disturbed, losses, metrics
from tests.launch.test_pipeline import CONFIG, RECIPE, succeed

KILLS = int(os.environ.get("KILLS", "50"))
SEED = int(os.environ.get("SEED", "0"))
STEPS_A_KILL = 16
"""More than are made between two kills on average, so that a run cannot end before it was killed often enough."""


@pytest.fixture
def work(tmp_path: Path) -> Path:
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    (tmp_path / "config.yaml").write_text(CONFIG.replace("mode: offline", "mode: disabled"))
    succeed("shard.py", "--recipe", tmp_path / "recipe.yaml", "--out", tmp_path / "data")
    return tmp_path


def arguments(work: Path, name: str) -> list[str]:
    steps = STEPS_A_KILL * KILLS // 2
    settings = [f"autoencoder.steps={steps}", f"dynamics.steps={steps}", "checkpoint.every=3", "data.workers=2"]
    return ["--config", str(work / "config.yaml"), f"run.dir={work / name}", f"data.path={work / 'data'}", *settings]


def wait_for_a_moment(run: DisturbedRun, chance: random.Random) -> bool:
    """Some random moment: at the start, some steps on, or while a checkpoint is written; False when the run ended."""
    made, folder = len(metrics(run.run_dir)), run.run_dir / "checkpoints"
    kind = chance.choice(("start", "step", "step", "step", "write", "write", "write"))
    if kind == "start":
        time.sleep(chance.uniform(0.0, 10.0))
        return run.launcher.poll() is None
    more = chance.randint(1, STEPS_A_KILL)
    if not run.wait_until(lambda: len(metrics(run.run_dir)) >= made + more):
        return False
    if kind == "write":  # which on a busy machine may be over before anybody looks
        latest = made + more + STEPS_A_KILL
        return run.wait_until(lambda: any(folder.glob("*/.*-step_*")) or len(metrics(run.run_dir)) >= latest)
    time.sleep(chance.uniform(0.0, 0.1))
    return run.launcher.poll() is None


def strike(run: DisturbedRun, chance: random.Random) -> str:
    """Kill one of the processes, or all; returns which."""
    kind = chance.choice(("rank", "launcher", "worker", "all"))
    if kind == "all":
        run.kill_all()
        return kind
    victims = {"rank": run.ranks, "launcher": lambda: [run.launcher], "worker": run.workers}[kind]()
    if not victims:  # before they are there
        kind, victims = "launcher", [run.launcher]
    with contextlib.suppress(psutil.Error):
        chance.choice(victims).send_signal(signal.SIGKILL)
    return kind


@pytest.mark.slow_kill
def test_killed_at_random(work: Path) -> None:
    chance, struck = random.Random(SEED), []
    shared_before = set(os.listdir("/dev/shm"))
    while len(struck) < KILLS:
        behind = f"checkpoint.write_behind={chance.choice(('true', 'false'))}"
        with disturbed(work / "killed", 2, [*arguments(work, "killed"), behind]) as run:
            assert wait_for_a_moment(run, chance), f"ended after {len(struck)} kills: {run.output[-4000:]}"
            struck.append(strike(run, chance))
            run.end()
        print(f"{len(struck)} of {KILLS} kills, the last of {struck[-1]}, after {len(losses(work / 'killed'))} steps")
    for name in ("killed", "undisturbed"):
        with disturbed(work / name, 2, arguments(work, name)) as run:
            assert run.end() == 0, run.output[-4000:]
    assert losses(work / "killed") == losses(work / "undisturbed")
    ours, theirs = (load(work / name / "export").state_dict() for name in ("killed", "undisturbed"))
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []
    assert set(os.listdir("/dev/shm")) <= shared_before
    left = [path.name for path in (work / "killed").rglob(".*")]
    assert left == [], "half-written checkpoints, or locks"
