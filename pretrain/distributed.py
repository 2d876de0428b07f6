"""Ranks: starting and ending the process group, the few collectives that training needs, and errors said once."""

import datetime
import os
import re
import socket
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from neurochorus.pretrain.launcher import join_launcher

T = TypeVar("T")

ONE_VOICE_SECONDS = 6.0
"""Longer than a launcher takes to see that a rank has failed and to end the others (deepspeed looks every second)."""


class LostRanks(RuntimeError):
    """Another rank ended, so that this one cannot go on; the other one says why."""


@dataclass(frozen=True)
class Ranks:
    rank: int
    world: int
    local_rank: int
    device: torch.device

    @property
    def first(self) -> bool:
        return self.rank == 0

    def sum(self, values: Tensor) -> Tensor:
        """Sum over ranks of a tensor on the CPU or the device; the result is on the device."""
        values = values.to(self.device)
        if dist.is_initialized():
            dist.all_reduce(values)
        return values

    def gather(self, value: T) -> list[T]:
        """What each rank gives, by rank, on all of them; for small objects."""
        if not dist.is_initialized():
            return [value]
        everyone = [value] * self.world
        dist.all_gather_object(everyone, value)
        return everyone

    def barrier(self) -> None:
        if dist.is_initialized():
            dist.barrier()


@contextmanager
def one_voice() -> Iterator[None]:
    """Hold back an error that another rank explains, so that a launcher ends this one before it repeats or buries it.

    Most errors are the same on all ranks: rank 0 speaks. One that only this rank has met is raised a little later, and
    the ranks that lost this one wait in turn and raise LostRanks should nobody end them.
    """
    try:
        yield
    except (ValueError, OSError, ArithmeticError, RuntimeError) as error:
        lost = of_the_network(error)
        if lost or int(os.environ.get("RANK", 0)):
            time.sleep(ONE_VOICE_SECONDS)
        if lost:
            raise LostRanks(
                f"the connection to another rank broke ({_brief(error)}): look for what that rank says, or for what "
                "ended it (memory?); the same command continues from the newest checkpoint"
            ) from error
        raise


def of_the_network(error: Exception) -> bool:
    """Whether an error says that another rank cannot be reached; gloo's are plain RuntimeErrors."""
    return isinstance(error, dist.DistError) or "gloo/transport" in str(error)


def _brief(error: Exception) -> str:
    """The first sentence of a network error, without the place in gloo's source and its general advice."""
    return re.sub(r"^\[\S+\.cc:\d+\] ", "", str(error).splitlines()[0]).partition(". This is")[0]


@contextmanager
def process_group(timeout_minutes: float = 30.0) -> Iterator[Ranks]:
    """Join the ranks that the launcher started (one, if none did) and leave them in every case at the end.

    Reads RANK, WORLD_SIZE, LOCAL_RANK and so on, set by the launcher or by join_launcher. gloo on CPUs, nccl on GPUs.
    """
    join_launcher()
    rank, world, local_rank, local_size = (
        int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_SIZE")
    )
    gpu = torch.cuda.is_available()
    if gpu:
        # DeepSpeed takes its device from the same variable
        local_rank = gpu_of(local_rank, torch.cuda.device_count())
        os.environ["LOCAL_RANK"] = str(local_rank)
        torch.cuda.set_device(local_rank)
    else:
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
        if "OMP_NUM_THREADS" not in os.environ:
            torch.set_num_threads(max(1, (os.cpu_count() or 1) // local_size))
    device = torch.device("cuda", local_rank) if gpu else torch.device("cpu")
    with one_voice():
        _initialise("nccl" if gpu else "gloo", timeout_minutes)
    try:
        with one_voice():
            yield Ranks(rank, world, local_rank, device)
    finally:
        dist.destroy_process_group()


def gpu_of(local_rank: int, visible: int) -> int:
    """The GPU of a rank among those that its launcher lets it see: of its own number, or the only one (srun can do so).

    Raises ValueError when there are fewer GPUs than ranks on this node.
    """
    if visible == 1:
        return 0
    if local_rank >= visible:
        raise ValueError(
            f"rank {local_rank} of node {socket.gethostname()} (counted from 0) has no GPU: the node shows {visible}; "
            "start as many ranks a node as it has GPUs"
        )
    return local_rank


def _initialise(backend: str, timeout_minutes: float) -> None:
    import deepspeed
    from deepspeed.ops import __compatible_ops__

    # its shared-memory all-reduce serves inference only, but is compiled for minutes at the first start
    __compatible_ops__["deepspeed_shm_comm"] = False
    # DeepSpeed calls collectives by names that PyTorch is about to drop; a user can do nothing about it
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.distributed")
    try:
        deepspeed.init_distributed(
            dist_backend=backend,
            timeout=datetime.timedelta(minutes=timeout_minutes),
            verbose=False,
            auto_mpi_discovery=False,
        )
    except dist.DistNetworkError as error:
        place = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        raise OSError(
            f"the ranks cannot meet at {place} ({str(error).splitlines()[0]}): if another run uses that port, give "
            "the launcher another one (deepspeed --master_port)"
        ) from None
