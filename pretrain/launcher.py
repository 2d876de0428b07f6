"""Which rank this process is, from the variables of the launcher that started it.

`deepspeed` and torchrun set RANK, LOCAL_RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT themselves. Under srun and mpirun
they are derived here from the variables of Slurm, Open MPI, or the Hydra launcher of MPICH and Intel MPI, so that
`srun python launch/pretrain.py` needs neither mpi4py nor another launcher in between.
"""

import os
import re
from collections.abc import Callable, Mapping

NEEDED = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
DEFAULT_PORT = 29500
JOB_PORTS = range(20_000, 30_000)
"""Where the port of a Slurm job lies: below the ports that Linux gives to outgoing connections."""
SPECIAL_STEPS = 0xFFFF_FFF0
"""Slurm's step ids from here on are batch scripts and interactive shells, not tasks of srun (slurm.h)."""


def join_launcher() -> None:
    """Set RANK, LOCAL_RANK, WORLD_SIZE, LOCAL_SIZE, MASTER_ADDR and MASTER_PORT of this process where they are not set.

    Raises ValueError that says what is missing.
    """
    os.environ.update(rank_environment(os.environ))


def rank_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables of NEEDED and LOCAL_SIZE for a process that was started with `environment`.

    Whatever of them is set already stays. Without a launcher: rank 0 of 1, on a free port. Raises ValueError when
    several ranks were started and something that they need to find each other is missing.
    """
    launcher, derived = _derived(environment)
    known = {**derived, **{name: environment[name] for name in (*NEEDED, "LOCAL_SIZE") if environment.get(name)}}
    missing = [name for name in NEEDED if name not in known]
    if missing:
        raise ValueError(
            f"the ranks cannot meet: {', '.join(missing)} not set, found {_listed(known)} from {launcher}; start with "
            f"deepspeed, torchrun or srun, or set {'it' if len(missing) == 1 else 'them'} for every rank"
        )
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_PORT"):
        if not known[name].isdecimal():
            raise ValueError(f"{name} is {known[name]!r}, expected a number")
    if int(known["RANK"]) >= int(known["WORLD_SIZE"]):
        raise ValueError(f"RANK is {known['RANK']} and WORLD_SIZE {known['WORLD_SIZE']}: ranks count from 0")
    # torchrun has another name for it
    return {"LOCAL_SIZE": environment.get("LOCAL_WORLD_SIZE") or known["WORLD_SIZE"], **known}


def first_host(nodes: str) -> str:
    """The first host of a Slurm node list, such as `gpu[003-005,9],login1` -> `gpu003`.

    Raises ValueError for a list that does not start with a host.
    """
    found = re.match(r"[^,\s]+", re.sub(r"\[([^\],-]*)[^\]]*\]", r"\1", nodes))
    if found is None or re.search(r"[\[\]]", found[0]):
        raise ValueError(f"the node list {nodes!r} does not start with the name of a host")
    return found[0]


def _derived(environment: Mapping[str, str]) -> tuple[str, dict[str, str]]:
    """The name of the launcher and what its own variables say.

    mpirun inside a Slurm job starts its daemons with srun, so that its ranks inherit the daemons' Slurm variables:
    the inner launcher is asked first.
    """
    launchers: list[tuple[str, str, Callable[[Mapping[str, str]], dict[str, str]]]] = [
        ("deepspeed or torchrun", "RANK", lambda _: {}),
        ("deepspeed or torchrun", "WORLD_SIZE", lambda _: {}),
        ("Open MPI", "OMPI_COMM_WORLD_RANK", _open_mpi),
        ("Hydra", "MPI_LOCALRANKID", _hydra),
    ]
    for name, mark, derive in launchers:
        if environment.get(mark):
            return name, derive(environment)
    if _is_slurm_task(environment):
        return "Slurm", _slurm(environment)
    alone = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
    return "no launcher", alone


def _is_slurm_task(environment: Mapping[str, str]) -> bool:
    """Whether srun started this process; a batch script has SLURM_PROCID too, but is no rank."""
    step = environment.get("SLURM_STEP_ID") or environment.get("SLURM_STEPID") or ""
    return "SLURM_PROCID" in environment and step.isdecimal() and int(step) < SPECIAL_STEPS


def _slurm(environment: Mapping[str, str]) -> dict[str, str]:
    found = _renamed(environment, RANK="SLURM_PROCID", LOCAL_RANK="SLURM_LOCALID", WORLD_SIZE="SLURM_NTASKS")
    found |= _renamed(environment, WORLD_SIZE="SLURM_STEP_NUM_TASKS")
    nodes = environment.get("SLURM_STEP_NODELIST") or environment.get("SLURM_JOB_NODELIST")
    if nodes:
        found["MASTER_ADDR"] = first_host(nodes)  # Slurm puts task 0 on the first node
    job, step = environment.get("SLURM_JOB_ID", ""), environment.get("SLURM_STEP_ID", "0")
    if job.isdecimal() and step.isdecimal():
        found["MASTER_PORT"] = str(JOB_PORTS[(31 * int(job) + int(step)) % len(JOB_PORTS)])
    node, tasks = environment.get("SLURM_NODEID", ""), environment.get("SLURM_STEP_TASKS_PER_NODE", "")
    sizes = [size for size, times in re.findall(r"(\d+)(?:\(x(\d+)\))?", tasks) for _ in range(int(times or 1))]
    if node.isdecimal() and int(node) < len(sizes):
        found["LOCAL_SIZE"] = sizes[int(node)]
    return found


def _open_mpi(environment: Mapping[str, str]) -> dict[str, str]:
    prefix = "OMPI_COMM_WORLD_"
    found = _renamed(environment, RANK=prefix + "RANK", WORLD_SIZE=prefix + "SIZE")
    found |= _renamed(environment, LOCAL_RANK=prefix + "LOCAL_RANK", LOCAL_SIZE=prefix + "LOCAL_SIZE")
    return _on_one_node(found)


def _hydra(environment: Mapping[str, str]) -> dict[str, str]:
    found = _renamed(environment, RANK="PMI_RANK", WORLD_SIZE="PMI_SIZE")
    return _on_one_node(found | _renamed(environment, LOCAL_RANK="MPI_LOCALRANKID", LOCAL_SIZE="MPI_LOCALNRANKS"))


def _on_one_node(found: dict[str, str]) -> dict[str, str]:
    """MPI launchers name no host: where all ranks are on one node it is this one, else the user must say it."""
    if found.get("LOCAL_SIZE") is not None and found.get("LOCAL_SIZE") == found.get("WORLD_SIZE"):
        found["MASTER_ADDR"] = "127.0.0.1"
    return {**found, "MASTER_PORT": str(DEFAULT_PORT)}


def _renamed(environment: Mapping[str, str], **names: str) -> dict[str, str]:
    return {ours: environment[theirs] for ours, theirs in names.items() if environment.get(theirs)}


def _listed(known: Mapping[str, str]) -> str:
    return ", ".join(f"{name}={value}" for name, value in known.items()) or "nothing"
