"""Plain functions run on several gloo ranks of this machine."""

import os
import pickle
import socket
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch.multiprocessing as multiprocessing


def free_port() -> int:
    """A port of this machine that nothing uses now, another one at each call."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def run_ranks(function: Callable[..., Any], world: int, *arguments: Any, timeout_s: float = 300.0) -> list[Any]:
    """Results, by rank, of `function(*arguments)` on `world` ranks: fresh processes with the launcher's environment.

    Raises AssertionError with the ranks' tracebacks when one fails, TimeoutError when they hang.
    """
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        context = multiprocessing.get_context("spawn")
        processes = [
            context.Process(target=_run, args=(function, rank, world, port, folder, arguments)) for rank in range(world)
        ]
        for process in processes:
            process.start()
        try:
            for process in processes:
                process.join(timeout_s)
                if process.is_alive():
                    raise TimeoutError(f"ranks did not end within {timeout_s} s")
        finally:
            for process in processes:
                process.kill()
        failures = [path.read_text() for path in sorted(Path(folder).glob("*.error"))]
        assert not failures, "\n".join(failures)
        return [pickle.loads((Path(folder) / f"{rank}.result").read_bytes()) for rank in range(world)]


def _run(
    function: Callable[..., Any], rank: int, world: int, port: int, folder: str, arguments: tuple[Any, ...]
) -> None:
    os.environ.update(
        RANK=str(rank),
        WORLD_SIZE=str(world),
        LOCAL_RANK=str(rank),
        LOCAL_SIZE=str(world),
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
        OMP_NUM_THREADS="1",
        DS_ACCELERATOR="cpu",
    )
    try:
        result = function(*arguments)
        (Path(folder) / f"{rank}.result").write_bytes(pickle.dumps(result))
    except BaseException:
        (Path(folder) / f"{rank}.error").write_text(f"rank {rank}:\n{traceback.format_exc()}")
        raise
