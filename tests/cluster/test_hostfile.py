"""Two nodes without a scheduler: deepspeed's hostfile over ssh and pdsh, a launcher on each node, and torchrun."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import yaml

from tests.cluster.nodes import Node, send_signal, two_nodes, until, what_is_missing
from tests.cluster.ssh import serve_ssh, ssh_settings
from tests.cluster.training import (
    ENDLESS,
    prepare,
    refuse_other_losses,
    saved_its_last_step,
    steps_done,
    what_runs,
)
from tests.launch.test_pipeline import ROOT

missing = what_is_missing()
pytestmark = [pytest.mark.cluster, pytest.mark.skipif(missing is not None, reason=str(missing))]

CLUSTER = ROOT / "launch" / "cluster"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hostfile")
    prepare(folder)
    (folder / "hostfile").write_text("chorus1 slots=1\nchorus2 slots=1\n")
    (folder / "deepspeed_env").write_text("DS_ACCELERATOR=cpu\nOMP_NUM_THREADS=1\n")
    return folder


@pytest.fixture(scope="module")
def nodes(folder: Path) -> Iterator[Sequence[Node]]:
    keys = folder / "keys"
    keys.mkdir()
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    variables = {"PATH": path, "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1", "HOSTFILE": str(folder / "hostfile")}
    # deepspeed hands on few variables to other nodes; these are in a file
    with two_nodes(ssh_settings(keys), **variables, DS_ENV_FILE=str(folder / "deepspeed_env")) as nodes:
        for node in nodes:
            serve_ssh(node, folder / "sshd.log")
        yield nodes


def hostfile_launch(nodes: Sequence[Node], folder: Path, name: str, *overrides: str) -> subprocess.Popen[bytes]:
    words = [CLUSTER / "hostfile.sh", *arguments(folder, name, *overrides)]
    return nodes[0].start(*words, log=folder / f"{name}.log")


def arguments(folder: Path, name: str, *overrides: str) -> list[str | Path]:
    return ["--config", folder / "config.yaml", f"run.dir={folder / name}", *overrides]


def trains_on(folder: Path, name: str) -> None:
    begun = steps_done(folder / name)
    until(lambda: steps_done(folder / name) >= begun + 12, f"it trains; see {folder / name}.log", seconds=300)


def test_a_hostfile_run_goes_on_after_signals_and_a_lost_node(nodes: Sequence[Node], folder: Path) -> None:
    log = folder / "tried.log"
    run = hostfile_launch(nodes, folder, "tried", ENDLESS, "checkpoint.every=50")
    trains_on(folder, "tried")
    send_signal(run, signal.SIGTERM)  # it cuts the connections, and ends the launchers of the nodes
    until(lambda: not what_runs(nodes), "all processes end", seconds=30)
    assert saved_its_last_step(folder / "tried")
    run.wait(60)

    run = hostfile_launch(nodes, folder, "tried", ENDLESS, "checkpoint.every=5")
    trains_on(folder, "tried")
    assert "autoencoder: resumed at step" in log.read_text()
    nodes[1].power_off()
    until(lambda: run.poll() is not None, "the other node gives up")
    assert run.returncode != 0
    assert not what_runs(nodes)
    nodes[1].boot()
    serve_ssh(nodes[1], folder / "sshd.log")

    run = hostfile_launch(nodes, folder, "tried", ENDLESS, "checkpoint.every=5")
    trains_on(folder, "tried")
    (folder / "tried" / "STOP").touch()
    assert run.wait(30) == 0
    assert log.read_text().count("autoencoder: resumed at step") == 2
    refuse_other_losses(folder / "tried")


def test_torchrun_on_each_node(nodes: Sequence[Node], folder: Path) -> None:
    shared = ["NODES=2", "GPUS=1", f"MASTER_ADDR={nodes[0].address}"]
    started = [
        node.start(
            *("env", *shared, f"NODE_RANK={rank}", CLUSTER / "torchrun.sh", *arguments(folder, "torchrun")),
            log=folder / "torchrun.log",
        )
        for rank, node in enumerate(nodes)
    ]
    assert [process.wait(400) for process in started] == [0, 0], (folder / "torchrun.log").read_text()
    assert (folder / "torchrun" / "export" / "config.json").exists()


def test_a_kubernetes_pod_that_is_moved(nodes: Sequence[Node], folder: Path) -> None:
    """The script of the pods, on nodes in their place: one is told to go, and is started again."""
    run, log, config = folder / "moved", folder / "moved.log", folder / "moved.yaml"
    config.write_text(
        (folder / "config.yaml").read_text().replace("autoencoder: {steps: 8}", "autoencoder: {steps: 200}")
    )
    parts = list(yaml.safe_load_all((CLUSTER / "kubernetes.yaml").read_text()))
    script = next(part["data"]["run.sh"] for part in parts if part["kind"] == "ConfigMap")
    script = script.replace("/cluster/hostfile", "$HOSTFILE").replace("neurochorus-0.neurochorus", nodes[0].name)

    def pod(index: int) -> subprocess.Popen[bytes]:
        settings = [f"JOB_COMPLETION_INDEX={index}", f"RUN_DIR={run}", f"CONFIG={config}"]
        return nodes[index].start("env", *settings, "bash", "-c", script, log=log, folder=ROOT)

    first, second = pod(0), pod(1)
    until(lambda: steps_done(run) > 10, f"it trains; see {log}", seconds=300)
    send_signal(second, signal.SIGTERM)
    assert second.wait(60) == 1
    assert saved_its_last_step(run)
    second = pod(1)
    assert [first.wait(400), second.wait(400)] == [0, 0], log.read_text()
    assert "autoencoder: resumed at step" in log.read_text()
    assert (run / "export" / "config.json").exists()
    refuse_other_losses(run)
