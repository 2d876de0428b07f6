"""launch/cluster/slurm.sbatch on two nodes of a real Slurm: stopped, requeued, robbed of a node, and run to its end."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.nodes import two_nodes, until, what_is_missing
from tests.cluster.slurm import Slurm, slurm_cluster
from tests.cluster.training import ENDLESS, prepare, refuse_other_losses, steps_done, what_runs
from tests.launch.test_pipeline import ROOT

missing = what_is_missing()
pytestmark = [pytest.mark.cluster, pytest.mark.skipif(missing is not None, reason=str(missing))]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("slurm")
    prepare(folder)
    # these nodes have no GPU for Slurm to give
    lines = (ROOT / "launch" / "cluster" / "slurm.sbatch").read_text().splitlines(keepends=True)
    (folder / "slurm.sbatch").write_text("".join(line for line in lines if not line.startswith("#SBATCH --gpus")))
    return folder


@pytest.fixture(scope="module")
def slurm(folder: Path) -> Iterator[Slurm]:
    with two_nodes(lambda _: None, **environment(folder)) as nodes, slurm_cluster(folder, nodes) as it:
        yield it


def environment(folder: Path) -> dict[str, str]:
    return {"SLURM_CONF": str(folder / "slurm.conf"), "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}


def submit(slurm: Slurm, folder: Path, name: str, *overrides: str) -> int:
    """Submit a run on two nodes with a rank on each."""
    options = ["--ntasks-per-node=1", "--cpus-per-task=1", f"--output={folder / name}.out", f"--chdir={ROOT}"]
    arguments = [folder / name, "--config", folder / "config.yaml", *overrides]
    return slurm.submit(folder / "slurm.sbatch", *arguments, options=options)


def test_a_run_ends_on_both_nodes(slurm: Slurm, folder: Path) -> None:
    job = submit(slurm, folder, "whole")
    until(lambda: slurm.state(job) in ("COMPLETED", "FAILED"), "the job ends", seconds=400)
    output = (folder / "whole.out").read_text()
    assert (slurm.state(job), slurm.exit_code(job)) == ("COMPLETED", "0:0"), output
    assert f"model: {folder / 'whole' / 'export'}" in output
    assert '"world": 2' in (folder / "whole" / "run.json").read_text()


def test_check_names_the_node_that_lacks_the_data(slurm: Slurm, folder: Path) -> None:
    first, second = slurm.nodes
    log, nothing = folder / "check.log", folder / "nothing"
    nothing.mkdir()
    words = ["srun", "--nodes=2", sys.executable, ROOT / "launch" / "pretrain.py", "--check"]
    words += ["--config", folder / "config.yaml", f"run.dir={folder / 'checked'}"]
    second.run("mount", "--bind", nothing, folder / "data")
    try:
        assert first.start(*words, log=log).wait(300) != 0
    finally:
        second.run("umount", folder / "data")
    assert f"{second.name}: {folder / 'data' / 'manifest.json'}: no manifest there" in log.read_text()
    assert first.start(*words, log=log).wait(300) == 0, log.read_text()
    assert "all 2 ranks are ready" in log.read_text()


def test_a_run_goes_on_after_whatever_befalls_it(slurm: Slurm, folder: Path) -> None:
    run = folder / "tried"
    job = submit(slurm, folder, "tried", ENDLESS, "checkpoint.every=5")

    def trains_on() -> None:
        begun = steps_done(run)
        until(lambda: steps_done(run) >= begun + 12, f"the job trains; {folder / 'tried.out'}", seconds=300)

    def saved() -> bool:
        return "autoencoder stopped at step" in (folder / "tried.out").read_text().rpartition("resumed")[2]

    trains_on()
    slurm.nodes[0].run("scontrol", "requeue", str(job))
    until(lambda: slurm.restarts(job) == 1, "the job was requeued")
    trains_on()
    assert "autoencoder: resumed at step" in (folder / "tried.out").read_text()

    slurm.nodes[1].power_off()
    until(lambda: slurm.restarts(job) == 2, "the lost node was noticed")
    slurm.bring_back(slurm.nodes[1], job)
    trains_on()

    slurm.nodes[0].run("scancel", "--signal=USR1", "--batch", str(job))  # as --signal=B:USR1@180 does
    until(lambda: slurm.restarts(job) == 3, "the job requeues itself before its time limit", seconds=30)
    assert saved()
    trains_on()

    slurm.nodes[0].run("scancel", "--signal=TERM", str(job))  # to the ranks alone
    until(lambda: slurm.state(job) not in ("RUNNING", "COMPLETING"), "the run saves and ends", seconds=30)
    assert (slurm.state(job), slurm.exit_code(job), slurm.restarts(job)) == ("COMPLETED", "0:0", 3)
    assert saved()
    assert not what_runs(slurm.nodes)
    refuse_other_losses(run)


def test_sigterm_to_the_batch_script_saves(slurm: Slurm, folder: Path) -> None:
    job = submit(slurm, folder, "stopped", ENDLESS)
    until(lambda: steps_done(folder / "stopped") > 3, "the job trains", seconds=300)
    slurm.nodes[0].run("scancel", "--signal=TERM", "--batch", str(job))
    until(lambda: slurm.state(job) not in ("RUNNING", "COMPLETING"), "the run saves and ends", seconds=30)
    assert (slurm.state(job), slurm.exit_code(job), slurm.restarts(job)) == ("COMPLETED", "0:0", 0)
    assert "autoencoder stopped at step" in (folder / "stopped.out").read_text()
