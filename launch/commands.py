"""Running the project's own commands one after the other, for the demo and the results."""

import contextlib
import os
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent


class CommandFailed(RuntimeError):
    """A command ended with an error; its own output says which."""


@dataclass(frozen=True)
class Part:
    """One command, what it makes, and where its output goes."""

    title: str
    command: list[str]
    product: Path
    log: Path


def python(script: str, *arguments: str) -> list[str]:
    """Command line of one of the scripts beside this file."""
    return [sys.executable, str(HERE / script), *arguments]


def deepspeed(ranks: int, port: int, script: str, *arguments: str) -> list[str]:
    """Command line that starts one of the scripts on `ranks` ranks of this machine."""
    launcher = Path(sys.executable).with_name("deepspeed")
    return [str(launcher), "--num_gpus", str(ranks), "--master_port", str(port), str(HERE / script), *arguments]


def on_ranks(ranks: int, port: int, script: str, *arguments: str) -> list[str]:
    """Command line of a training: without a launcher on one rank, else by DeepSpeed's, whose ranks meet at `port`."""
    return python(script, *arguments) if ranks == 1 else deepspeed(ranks, port, script, *arguments)


def next_free_port(port: int) -> int:
    """The first port from `port` on that nothing on this machine is bound to."""
    while not _is_free(port):
        port += 1
    return port


def free_ports(count: int, first: int) -> list[int]:
    """Ports from `first` on that nothing on this machine is bound to now, one for the ranks of each training."""
    ports: list[int] = []
    while len(ports) < count:
        ports.append(next_free_port(ports[-1] + 1 if ports else first))
    return ports


def _is_free(port: int) -> bool:
    with socket.socket() as one:
        try:
            one.bind(("", port))
        except OSError:
            return False
    return True


def run(command: Sequence[str], title: str, log: Path | None = None) -> float:
    """Show a command, run it, and return the seconds it took. Raises CommandFailed.

    With `log` its output is added to that file instead of being shown: for commands that run side by side.
    """
    shown = shlex.join([Path(command[0]).name, *(part.replace(str(HERE), "launch") for part in command[1:])])
    print(f"\n== {title}\n$ {shown}", flush=True)
    begun = time.monotonic()
    # passive: threads that spin while they wait make a busy machine up to 20 times slower
    environment = {"DS_ACCELERATOR": _accelerator(), "OMP_WAIT_POLICY": "PASSIVE", **os.environ}
    with contextlib.ExitStack() as stack:
        output = None if log is None else stack.enter_context(log.open("a"))
        result = subprocess.run(
            command, check=False, env={k: v for k, v in environment.items() if v}, stdout=output, stderr=output
        )
    if result.returncode:
        where = "the lines above say" if log is None else f"{log} says"
        raise CommandFailed(f"'{title}' failed with exit code {result.returncode}; {where} why")
    seconds = time.monotonic() - begun
    print(f"-- {title}: {seconds:.0f} s" if log else f"-- {seconds:.0f} s", flush=True)
    return seconds


def run_all(parts: Sequence[Part], jobs: int) -> None:
    """Run the commands, `jobs` at once; after a failure no further one is started. Raises CommandFailed."""
    with ThreadPoolExecutor(jobs) as pool:
        waiting = [pool.submit(_run_part, part, part.log if jobs > 1 else None) for part in parts]
        try:
            for one in waiting:
                one.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _run_part(part: Part, log: Path | None) -> None:
    run(part.command, part.title, log)
    if not part.product.exists():  # a training that is asked to stop saves and ends without an error
        raise CommandFailed(f"'{part.title}' was stopped before its end; run the same command to continue")


def _accelerator() -> str:
    import torch

    return "" if torch.cuda.is_available() else "cpu"
