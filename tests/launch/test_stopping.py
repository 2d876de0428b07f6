"""Signals to the process that a user sees: what they start is saved and ends, under every launcher of one node.

For srun and several nodes see tests/cluster.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.distributed import free_port
from tests.launch.test_pipeline import CONFIG, RECIPE, ROOT, succeed

BIN = Path(sys.executable).parent
DEEPSPEED = [BIN / "deepspeed", "--num_gpus", "2"]
TORCHRUN = [BIN / "torchrun", "--nproc_per_node", "2"]


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stopping")
    (folder / "recipe.yaml").write_text(RECIPE)
    (folder / "config.yaml").write_text(CONFIG)
    succeed("shard.py", "--recipe", folder / "recipe.yaml", "--out", folder / "data")
    return folder


@pytest.fixture
def started(request: pytest.FixtureRequest, work: Path) -> Iterator[tuple[psutil.Popen, Path]]:
    """A run that trains on two ranks, with reader processes and wandb, under the launcher that the test asks for."""
    folder = work / f"run{time.monotonic_ns()}"
    words = [*request.param, "--master_port", free_port(), ROOT / "launch" / "pretrain.py"]
    words += ["--config", work / "config.yaml", f"run.dir={folder}"]
    words += [f"data.path={work / 'data'}", "autoencoder.steps=100000"]
    environment = {**os.environ, "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}
    with (work / f"{folder.name}.log").open("w") as log:
        launcher = psutil.Popen([*map(str, words)], cwd="/", env=environment, stdout=log, stderr=subprocess.STDOUT)
    everything = [launcher]
    try:
        wait_until(lambda: len((folder / "metrics.jsonl").read_text().splitlines()) > 3, 120, folder)
        everything += launcher.children(recursive=True)
        yield launcher, folder
        wait_until(lambda: not any(alive(process) for process in everything), 30, folder)
        assert "autoencoder stopped at step" in log_of(folder)
        newest = max((folder / "checkpoints" / "autoencoder").glob("step_*/COMPLETE.json")).parent.name
        assert f"stopped at step {int(newest.removeprefix('step_'))}:" in log_of(folder)
    finally:
        for process in everything:
            if alive(process):
                process.kill()


def wait_until(holds, seconds: float, folder: Path) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if holds():
                return
        except FileNotFoundError:
            pass
        time.sleep(0.1)
    raise AssertionError(f"waited {seconds} s in vain: {log_of(folder)}")


def log_of(folder: Path) -> str:
    return folder.with_name(f"{folder.name}.log").read_text()


def alive(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.mark.parametrize("started", [DEEPSPEED], indirect=True)
def test_deepspeed_ends_at_sigterm_and_its_ranks_notice(started: tuple[psutil.Popen, Path]) -> None:
    """It passes the signal on to nobody: the ranks used to train on without it, unseen."""
    launcher, folder = started
    launcher.send_signal(signal.SIGTERM)
    assert launcher.wait(10) == -signal.SIGTERM
    wait_until(lambda: "the launcher that started this rank has ended" in log_of(folder), 30, folder)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("started", "number"), [(DEEPSPEED, signal.SIGUSR1), (TORCHRUN, signal.SIGINT)], indirect=["started"]
)
def test_any_signal_to_one_rank_stops_all_with_status_0(
    started: tuple[psutil.Popen, Path], number: signal.Signals
) -> None:
    launcher, folder = started
    os.kill(json.loads((folder / "run.json").read_text())["pid"], number)
    assert launcher.wait(30) == 0
    assert f"signal {number.name}" in log_of(folder)


@pytest.mark.slow
@pytest.mark.parametrize("started", [DEEPSPEED, TORCHRUN], indirect=True)
def test_a_signal_to_every_process_at_once(started: tuple[psutil.Popen, Path]) -> None:
    """As Ctrl-C, or a scheduler that ends a job: readers and wandb get it too. The launchers then end with an error."""
    launcher, _ = started
    for process in (launcher, *launcher.children(recursive=True)):
        process.send_signal(signal.SIGTERM)
    assert launcher.wait(30) != 0


@pytest.mark.slow
@pytest.mark.parametrize("started", [TORCHRUN], indirect=True)
def test_torchrun_passes_sigterm_on(started: tuple[psutil.Popen, Path]) -> None:
    launcher, _ = started
    launcher.send_signal(signal.SIGTERM)
    assert launcher.wait(40) != 0
