"""Between nodes: how fast they add numbers up, how far their clocks differ, whether they share a folder."""

import os
import time
from contextlib import suppress
from pathlib import Path

import torch
import torch.distributed as dist

from neurochorus.pretrain.distributed import Ranks

ROUNDS = 5
PATIENCE_SECONDS = 10.0
"""Network file systems show a new file to other nodes only after some seconds."""


def all_reduce_rate(ranks: Ranks) -> float | None:
    """Bus bandwidth of an all-reduce in GB/s, or None for one rank: 2 (n - 1) / n x bytes / s, as nccl-tests have it.

    The median of a few, of 64 MiB on GPUs and 4 MiB on CPUs. All ranks must call it.
    """
    if ranks.world == 1:
        return None
    values = torch.ones((64 if ranks.device.type == "cuda" else 4) * 2**18, device=ranks.device)
    seconds = []
    for _ in range(ROUNDS):
        ranks.barrier()
        _finish(ranks.device)
        begun = time.perf_counter()
        dist.all_reduce(values)
        _finish(ranks.device)
        seconds.append(time.perf_counter() - begun)
    share = 2 * (ranks.world - 1) / ranks.world
    return share * values.nbytes / sorted(seconds)[ROUNDS // 2] / 1e9


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def clock_offset(ranks: Ranks) -> float:
    """Seconds by which this clock is ahead of rank 0's, give or take a barrier. All ranks must call it."""
    offsets = []
    for _ in range(ROUNDS):
        ranks.barrier()
        now = time.time()
        of_first = ranks.sum(torch.tensor(now if ranks.first else 0.0, dtype=torch.float64))
        offsets.append(now - float(of_first))
    return min(offsets, key=abs)


def finds_the_same_folder(folder: Path, ranks: Ranks, patience_s: float = PATIENCE_SECONDS) -> bool:
    """Whether a file that rank 0 writes into its `folder` appears in this rank's. All ranks must call it."""
    token = int(ranks.sum(torch.tensor(os.getpid() if ranks.first else 0)))
    probe = folder / f".neurochorus-check-{token}"
    if ranks.first:
        with suppress(OSError):  # then no rank finds it
            probe.touch()
    ranks.barrier()
    deadline = time.monotonic() + patience_s
    while not (found := probe.exists()) and time.monotonic() < deadline:
        time.sleep(0.2)
        os.scandir(folder).close()  # makes NFS look again
    ranks.barrier()
    if ranks.first:
        probe.unlink(missing_ok=True)
    return found
