"""Whether the launcher that started this rank still lives.

`deepspeed` ends at SIGTERM without a word to the processes that it started: they would train on, unseen, and get in the
way of the run that continues this one.
"""

import itertools
import os
import sys
from pathlib import PurePath

import psutil

PROGRAMS = {"deepspeed", "ds", "torchrun", "slurmstepd"}
NODE_LAUNCHER = "deepspeed.launcher.launch"
"""Module of the launcher of one node, which `deepspeed` starts."""
MODULES = {NODE_LAUNCHER, "deepspeed.launcher.runner", "torch.distributed.run"}


class LauncherLife:
    """The parents of this process up to its outermost launcher, as they are now; none without a launcher."""

    def __init__(self) -> None:
        ancestors = psutil.Process().parents()
        launchers = [generation for generation, process in enumerate(ancestors) if is_launcher(_command(process))]
        above = launchers[-1] + 1 if launchers else 0
        self._parents = dict(itertools.pairwise((os.getpid(), *(process.pid for process in ancestors[:above]))))
        top = _command(ancestors[above - 1]) if above else sys.argv
        self._orphan = is_orphan(top, [(process.pid, _command(process)) for process in ancestors[above : above + 1]])

    def over(self) -> bool:
        """Whether one of them has ended: Linux gives the children of an ended process another parent at once."""
        return self._orphan or any(_parent(child) != parent for child, parent in self._parents.items())


def is_orphan(command: list[str], parent: list[tuple[int, list[str]]]) -> bool:
    """Whether a process that `deepspeed` started belongs to the system by now: it ended before this rank could look.

    `parent` is the process above it, if there is one. A rank is known by the number that it is given, and the launcher
    of a node by its module; all else may well be started by the system.

    >>> is_orphan(["launch/pretrain.py", "--local_rank=0"], [(1, ["/sbin/init"])])
    True
    >>> is_orphan(["python", "-m", "deepspeed.launcher.launch", "--node_rank=0"], [(812, ["/lib/systemd/systemd"])])
    True
    >>> is_orphan(["python", "-m", "deepspeed.launcher.launch", "--node_rank=0"], [(812, ["bash", "-c", "..."])])
    False
    >>> is_orphan(["python", "deepspeed", "launch/pretrain.py"], [(1, ["/sbin/init"])])
    False
    """
    started = NODE_LAUNCHER in command or any(word.startswith("--local_rank") for word in command)
    adopted = not parent or parent[0][0] == 1 or PurePath((parent[0][1] or [""])[0]).name == "systemd"
    return started and adopted


def is_launcher(command: list[str]) -> bool:
    """Whether a command line is that of a process that starts ranks, and stays until they end.

    >>> is_launcher(["/bin/python3", "/env/bin/deepspeed", "--num_gpus", "2", "launch/pretrain.py"])
    True
    >>> is_launcher(["python", "-u", "-m", "torch.distributed.run", "launch/pretrain.py"])
    True
    >>> is_launcher(["slurmstepd: [12.0]"])
    True
    >>> is_launcher(["python", "launch/pretrain.py", "run.dir=runs/deepspeed"])
    False
    """
    program, *arguments = [PurePath(word).name for word in command] or [""]
    if program.partition(":")[0] in PROGRAMS:
        return True
    if not program.startswith("python"):
        return False
    script = next((i for i, word in enumerate(arguments) if not word.startswith("-")), len(arguments))
    return bool({*arguments[script : script + 1]} & (PROGRAMS | MODULES))


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:  # ended since, or another user's
        return []


def _parent(process: int) -> int | None:
    try:
        return psutil.Process(process).ppid()
    except psutil.NoSuchProcess:
        return None
