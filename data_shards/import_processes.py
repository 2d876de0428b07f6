"""Importing several sessions at once, each in a process of its own: one that fails, or is killed, takes none along.

A process holds one recording at a time and ends with it, so that its memory goes back to the system.
"""

import errno
import multiprocessing
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from neurochorus.data_shards.import_jobs import ImportJob
from neurochorus.data_shards.session_part import write_part

POLL_S = 0.5


class DiskRefused(OSError):
    """Writing a part failed; unlike a file that cannot be imported, this ends everything."""


@dataclass(frozen=True)
class Outcome:
    """What became of one job: `problem` is None when its part is on disk."""

    job: ImportJob
    problem: str | None


def make_part(job: ImportJob, tar: Path) -> str | None:
    """Import a session into the part `tar`; returns what is wrong with its file, or None. DiskRefused when not that."""
    try:
        recording = job.run()
    except (ValueError, OSError) as error:
        return str(error)
    except MemoryError:
        return f"{job.name}: not enough memory to import it: use fewer --jobs, or a larger bin_s"
    except Exception as error:  # the other files must go on; the name of a fault of ours says that it is one
        return f"{job.name}: {type(error).__name__}: {error}"
    try:
        write_part(recording, tar, job.recipe.sample_bins)
    except ValueError as error:
        return str(error)
    except OSError as error:
        raise DiskRefused(error.errno, error.strerror or str(error)) from error
    return None


def import_parts(jobs: list[tuple[ImportJob, Path]], processes: int) -> Iterator[Outcome]:
    """Make the parts of all jobs, up to `processes` at a time, and yield each outcome as it comes."""
    if processes == 1:
        for job, tar in jobs:
            yield Outcome(job, make_part(job, tar))
        return
    # processes forked from a server without threads: cheap to start, and no lock of ours is held in them
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    waiting = list(reversed(jobs))
    running: dict[Connection, tuple[ImportJob, Any]] = {}
    try:
        while waiting or running:
            while waiting and len(running) < processes:
                _start(context, *waiting.pop(), running)
            for connection in wait(list(running), POLL_S):
                assert isinstance(connection, Connection)
                job, process = running.pop(connection)
                yield Outcome(job, _result(connection, job, process))
    finally:
        for _, process in running.values():
            process.terminate()
            process.join()


def _start(context: Any, job: ImportJob, tar: Path, running: dict[Connection, tuple[ImportJob, Any]]) -> None:
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=WORK, args=(job, tar, theirs), daemon=True)
    process.start()
    theirs.close()
    running[ours] = job, process


def _work(job: ImportJob, tar: Path, connection: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the command ends us in its own way
    try:
        connection.send(("file", make_part(job, tar)))
    except DiskRefused as error:
        connection.send(("disk", (error.errno, error.strerror)))


def _result(connection: Connection, job: ImportJob, process: Any) -> str | None:
    try:
        kind, value = connection.recv()
    except EOFError:
        process.join()
        return (
            f"{job.name}: its process ended with exit code {process.exitcode}; -9 is mostly a lack of memory: "
            "use fewer --jobs, and run the same command again"
        )
    finally:
        connection.close()
    process.join()
    if kind == "disk":
        raise DiskRefused(*(value if value[0] is not None else (errno.EIO, value[1])))
    return value


WORK = _work
"What a process runs; tests put a process there that dies."
