"""Training runs that are disturbed on purpose: started in the background, watched by their metrics, hit by signals."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil

from tests.distributed import free_port
from tests.launch.test_pipeline import ROOT

PATIENCE_S = 300.0
"""Before a run that shows no progress is taken to hang."""


class DisturbedRun:
    """`launch/pretrain.py` on some ranks of this machine, with all its processes in one session."""

    def __init__(self, run_dir: Path, ranks: int, arguments: list[str]):
        launcher = [str(Path(sys.executable).with_name("deepspeed")), "--num_gpus", str(ranks)]
        words = [*launcher, "--master_port", str(free_port()), str(ROOT / "launch" / "pretrain.py"), *arguments]
        environment = {**os.environ, "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}
        self.run_dir = run_dir
        self._log = run_dir.parent / f"{run_dir.name}.log"
        with self._log.open("a") as log:
            self.launcher = psutil.Popen(
                words, cwd="/", env=environment, stdout=log, stderr=log, start_new_session=True
            )

    @property
    def output(self) -> str:
        return self._log.read_text()

    def processes(self) -> list[psutil.Process]:
        """All processes of the run that still live, orphans too."""
        session = self.launcher.pid
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, ProcessLookupError):
                if os.getsid(process.pid) == session and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found

    def ranks(self) -> list[psutil.Process]:
        """The training processes, in the order of their numbers."""
        return [p for p in self.processes() if _is_script(p) and not _is_script(p.parent())]

    def workers(self) -> list[psutil.Process]:
        """The processes that read data."""
        return [p for p in self.processes() if _is_script(p) and _is_script(p.parent())]

    def wait_until(self, happened: Callable[[], bool]) -> bool:
        """Wait; False when the run ended before it happened."""
        deadline = time.monotonic() + PATIENCE_S
        while not happened():
            if self.launcher.poll() is not None:
                return False
            assert time.monotonic() < deadline, f"no progress\n{self.output[-4000:]}"
            time.sleep(0.002)
        return True

    def reached(self, stage: str, step: int) -> Callable[[], bool]:
        """A question for wait_until: whether a step is in the metrics."""
        return lambda: any(line["stage"] == stage and line["step"] >= step for line in metrics(self.run_dir))

    def end(self) -> int:
        """Wait until every process has ended; the launcher's exit code."""
        code = self.launcher.wait(PATIENCE_S)
        deadline = time.monotonic() + PATIENCE_S
        while left := self.processes():
            assert time.monotonic() < deadline, f"still there: {[p.cmdline() for p in left]}"
            time.sleep(0.05)
        return code

    def kill_all(self) -> None:
        for process in self.processes():
            with contextlib.suppress(psutil.Error):
                process.send_signal(signal.SIGKILL)


@contextlib.contextmanager
def disturbed(run_dir: Path, ranks: int, arguments: list[str]) -> Iterator[DisturbedRun]:
    """A run of which nothing is left afterwards, whatever happens inside."""
    run = DisturbedRun(run_dir, ranks, arguments)
    try:
        yield run
    finally:
        run.kill_all()
        with contextlib.suppress(subprocess.TimeoutExpired, psutil.TimeoutExpired):
            run.launcher.wait(10)


def metrics(run_dir: Path) -> list[dict[str, Any]]:
    """Whole lines of metrics.jsonl, in order; none before it is there."""
    file = run_dir / "metrics.jsonl"
    if not file.is_file():
        return []
    return [json.loads(line) for line in file.read_text().splitlines(keepends=True) if line.endswith("\n")]


def losses(run_dir: Path) -> dict[tuple[str, int], tuple[float, ...]]:
    """(stage, step) -> samples seen, loss, learning rate and gradient norm.

    Steps that were made again after a kill must have come out the same: raises AssertionError where they did not.
    """
    found: dict[tuple[str, int], tuple[float, ...]] = {}
    for line in metrics(run_dir):
        values = tuple(line[name] for name in ("samples_seen", "loss", "lr", "grad_norm"))
        key = (line["stage"], line["step"])
        assert found.setdefault(key, values) == values, f"{key} was made twice, differently"
    return found


def _is_script(process: psutil.Process | None) -> bool:
    """Whether a process is a rank, or a worker that it forked."""
    with contextlib.suppress(psutil.Error):
        words = process.cmdline() if process is not None else []
        return any(word.endswith("launch/pretrain.py") for word in words[1:3])  # of a launcher it comes later
    return False
