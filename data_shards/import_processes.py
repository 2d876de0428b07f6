"""Work on several sessions at once, each in a process of its own: one that fails, or is killed, takes none along.

A process holds one recording at a time and ends with it, so that its memory goes back to the system.
"""

import errno
import multiprocessing
import signal
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any

from neurochorus.data_shards.import_jobs import ImportJob

POLL_S = 0.5

Work = Callable[..., Any]
"""Called with a job and further arguments; a module's function, so that another process finds it. What it returns goes
from process to process and should be small."""


class DiskRefused(OSError):
    """Writing failed; unlike a file that cannot be imported, this ends everything."""


@dataclass(frozen=True)
class Outcome:
    """What became of one job: what `work` returned, or else what is wrong with its file."""

    job: ImportJob
    result: Any
    problem: str | None


def attempt(work: Work, job: ImportJob, *arguments: Any) -> Outcome:
    """Call `work`; what it raises becomes the problem of the job's file, except a disk that refuses to be written."""
    try:
        return Outcome(job, work(job, *arguments), None)
    except DiskRefused:
        raise
    except (ValueError, OSError) as error:
        problem = str(error)
    except MemoryError:
        problem = f"{job.name}: not enough memory to import it: use fewer --jobs, or a larger bin_s"
    except Exception as error:  # the other files must go on; the type tells that it is a fault of ours
        problem = f"{job.name}: {type(error).__name__}: {error}"
    return Outcome(job, None, problem)


def run_jobs(work: Work, tasks: Iterable[tuple[Any, ...]], processes: int) -> Iterator[Outcome]:
    """Call `work` with each task, a job and further arguments, up to `processes` at a time; yields as they are done."""
    if processes == 1:
        for task in tasks:
            yield attempt(work, *task)
        return
    # processes forked from a server without threads: cheap to start, and no lock of ours is held in them
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([work.__module__])
    waiting = list(tasks)[::-1]
    running: dict[Connection, tuple[ImportJob, Any]] = {}
    try:
        while waiting or running:
            while waiting and len(running) < processes:
                task = waiting.pop()
                ours, process = _start(context, work, task)
                running[ours] = task[0], process
            for connection in wait(list(running), POLL_S):
                assert isinstance(connection, Connection)
                yield _outcome(connection, *running.pop(connection))
    finally:
        for _, process in running.values():
            process.terminate()
            process.join()


def _start(context: Any, work: Work, task: tuple[Any, ...]) -> tuple[Connection, Any]:
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(theirs, work, *task), daemon=True)
    process.start()
    theirs.close()
    return ours, process


def _work(connection: Connection, work: Work, *task: Any) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the command ends us in its own way
    try:
        outcome = attempt(work, *task)
        connection.send(("file", (outcome.result, outcome.problem)))
    except DiskRefused as error:
        connection.send(("disk", (error.errno, error.strerror)))


def _outcome(connection: Connection, job: ImportJob, process: Any) -> Outcome:
    try:
        kind, value = connection.recv()
    except EOFError:
        process.join()
        problem = (
            f"{job.name}: its process ended with exit code {process.exitcode}; -9 is mostly a lack of memory: "
            "use fewer --jobs, and run the same command again"
        )
        return Outcome(job, None, problem)
    finally:
        connection.close()
    process.join()
    if kind == "disk":
        raise DiskRefused(*(value if value[0] is not None else (errno.EIO, value[1])))
    return Outcome(job, *value)
