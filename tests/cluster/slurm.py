"""A Slurm cluster on two nodes: munged, slurmctld on the first node, slurmd on both."""

import os
import secrets
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.cluster.nodes import Node, until

CONFIGURATION = """
ClusterName=chorus
SlurmctldHost={head}
SlurmUser=root
# a requeued job waits until its old credentials are invalid; Slurm's default is 120 s
AuthInfo=socket={folder}/munge.socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
# requeued jobs start in seconds, in place of a minute
SchedulerParameters=sched_interval=3,bf_interval=3
MailProg=/bin/true
# a dead node is noticed in seconds, in place of minutes
SlurmdTimeout=10
ReturnToService=2
SlurmdParameters=config_overrides
NodeName={names} CPUs=1
PartitionName=all Nodes=ALL Default=YES State=UP
"""

RETRY_SECONDS = 65.0


@dataclass(frozen=True)
class Slurm:
    folder: Path
    nodes: Sequence[Node]

    def submit(self, script: Path, *arguments: str | Path, options: Sequence[str]) -> int:
        """Submit a batch script on the first node; returns the job's id."""
        return int(self.nodes[0].run("sbatch", "--parsable", *options, script, *arguments))

    def state(self, job: int) -> str:
        """Slurm's word for where a job stands: PENDING, RUNNING, COMPLETING, COMPLETED, FAILED, ..."""
        return self._field(job, "JobState")

    def restarts(self, job: int) -> int:
        return int(self._field(job, "Restarts"))

    def exit_code(self, job: int) -> str:
        """`status:signal` of the batch script."""
        return self._field(job, "ExitCode")

    def _field(self, job: int, name: str) -> str:
        shown = self.nodes[0].run("scontrol", "show", "job", str(job))
        return dict(word.split("=", 1) for word in shown.split() if "=" in word)[name]

    def serve(self, node: Node) -> None:
        """Start a node's slurmd and wait until jobs may run there."""
        node.run("slurmd", "-N", node.name)
        until(lambda: self._node_state(node) in ("idle", "mixed", "allocated"), f"{node.name} is up")

    def bring_back(self, node: Node, job: int) -> None:
        """Boot a node that was lost, and let its job go on there.

        A minute after the loss the controller tries once more to end what ran there. Real clusters keep requeued jobs
        waiting for two minutes (cred_expire); here that would end the job's next life in place of the one before.
        """
        self.nodes[0].run("scontrol", "hold", str(job))
        node.boot()
        self.serve(node)
        time.sleep(RETRY_SECONDS)
        self.nodes[0].run("scontrol", "release", str(job))

    def _node_state(self, node: Node) -> str:
        return self.nodes[0].run("sinfo", "--noheader", "--Format=StateCompact", "--nodes", node.name).strip("*~# ")


@contextmanager
def slurm_cluster(folder: Path, nodes: Sequence[Node]) -> Iterator[Slurm]:
    """A running cluster with all its files in `folder`; the nodes must have SLURM_CONF={folder}/slurm.conf set."""
    for name in ("state", *(f"spool-{node.name}" for node in nodes)):
        (folder / name).mkdir()
    # by itself slurmd looks for a version, and the /sys of a network namespace shows it none
    (folder / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n")
    settings = CONFIGURATION.format(head=nodes[0].name, folder=folder, names=",".join(node.name for node in nodes))
    (folder / "slurm.conf").write_text(settings)
    cluster = Slurm(folder, nodes)
    munged = _start_munged(folder)
    try:
        nodes[0].run("slurmctld")
        for node in nodes:
            cluster.serve(node)
        yield cluster
    finally:
        for node in nodes:
            node.power_off()
        munged.terminate()
        munged.wait()


def _start_munged(folder: Path) -> subprocess.Popen[bytes]:
    """One daemon vouches for both nodes, by a socket in the file system that they share."""
    key = folder / "munge.key"
    key.write_bytes(secrets.token_bytes(64))
    key.chmod(0o600)
    files = {"key-file": "key", "socket": "socket", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
    options = [f"--{option}={folder}/munge.{name}" for option, name in files.items()]
    # it would refuse folders that others may enter, such as the one for temporary files
    process = subprocess.Popen(
        ["munged", "--foreground", "--force", *options], env=os.environ, stderr=subprocess.DEVNULL
    )
    until((folder / "munge.socket").exists, "munged listens")
    return process
