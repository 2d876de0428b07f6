"""A rank notices that the launcher above it is gone."""

import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from neurochorus.pretrain.launcher_life import LauncherLife, is_launcher

LAUNCHER = "import subprocess, sys; sys.exit(subprocess.run([sys.executable, *sys.argv[1:]]).returncode)"
RANK = """
import time
from neurochorus.pretrain.launcher_life import LauncherLife
life = LauncherLife()
print(life.over(), flush=True)
while not life.over():
    time.sleep(0.02)
print("over", flush=True)
"""


@pytest.mark.parametrize("killed", ["outer", "inner"])
def test_a_rank_sees_the_end_of_any_launcher_above_it(tmp_path: Path, killed: str) -> None:
    """As with `deepspeed`, which starts a launcher of its own on each node."""
    launcher, rank = tmp_path / "deepspeed", tmp_path / "rank.py"
    launcher.write_text(LAUNCHER)
    rank.write_text(RANK)
    outer = subprocess.Popen([sys.executable, launcher, launcher, rank], stdout=subprocess.PIPE, text=True)
    assert outer.stdout is not None
    assert outer.stdout.readline() == "False\n"
    (inner,) = psutil.Process(outer.pid).children()
    (outer if killed == "outer" else inner).send_signal(signal.SIGKILL)
    assert outer.stdout.readline() == "over\n"
    outer.wait()


@pytest.mark.parametrize("alone", ["rank", "launcher of a node"])
def test_a_launcher_that_ended_before_the_rank_could_look(tmp_path: Path, alone: str) -> None:
    """Importing takes seconds, and a launcher may be killed meanwhile."""
    rank, node_launcher = tmp_path / "rank.py", tmp_path / "deepspeed.launcher.launch"
    rank.write_text(f"import time; time.sleep(1)\n{RANK}")
    node_launcher.write_text(LAUNCHER)
    started = [str(rank), "--local_rank=0"]
    if alone != "rank":
        started = [str(node_launcher), *started]
    start = f"import subprocess, sys; subprocess.Popen([sys.executable, *{started}])"  # and ends at once
    ended = subprocess.run([sys.executable, "-c", start], stdout=subprocess.PIPE, text=True, timeout=60, check=True)
    assert ended.stdout == "True\nover\n"


def test_without_a_launcher_nothing_can_end() -> None:
    assert not LauncherLife().over()


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("/env/bin/python3.11 /env/bin/deepspeed --num_gpus 2 launch/pretrain.py", True),
        ("/env/bin/python -u -m deepspeed.launcher.launch --world_info=x launch/pretrain.py", True),
        ("/env/bin/torchrun --nproc-per-node 2 launch/pretrain.py", True),
        ("python -m torch.distributed.run launch/pretrain.py", True),
        ("python -u launch/pretrain.py deepspeed", False),
        ("bash deepspeed", False),
        ("vim torchrun", False),
        ("", False),
    ],
)
def test_which_commands_launch(command: str, expected: bool) -> None:
    assert is_launcher(command.split()) is expected
    assert is_launcher(["slurmstepd: [12.0]"])
