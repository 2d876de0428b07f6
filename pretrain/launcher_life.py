"""Whether the launcher that started this rank still lives.

`deepspeed` ends at SIGTERM without a word to the processes that it started: they would train on, unseen, and get in the
way of the run that continues this one.
"""

import itertools
import os
from pathlib import PurePath

import psutil

PROGRAMS = {"deepspeed", "ds", "torchrun", "slurmstepd"}
MODULES = {"deepspeed.launcher.launch", "deepspeed.launcher.runner", "torch.distributed.run"}


class LauncherLife:
    """The parents of this process up to its outermost launcher, as they are now; none without a launcher."""

    def __init__(self) -> None:
        ancestors = psutil.Process().parents()
        launchers = [generation for generation, process in enumerate(ancestors) if is_launcher(_command(process))]
        line = [process.pid for process in ancestors[: launchers[-1] + 1]] if launchers else []
        self._parents = dict(itertools.pairwise((os.getpid(), *line)))

    def over(self) -> bool:
        """Whether one of them has ended: Linux gives the children of an ended process another parent at once."""
        return any(_parent(child) != parent for child, parent in self._parents.items())


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
