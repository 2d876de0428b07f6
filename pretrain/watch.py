"""What a run shows and keeps: one progress line, metrics.jsonl, wandb, TensorBoard, a profile of chosen steps.

Only rank 0 shows or writes anything. Floats in metrics.jsonl read back exactly (JSON keeps Python's shortest repr of a
double).
"""

import json
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from rich.console import Console
from torch import Tensor

from neurochorus.data_shards.batch import Batch
from neurochorus.pretrain.config import RunConfig
from neurochorus.pretrain.console import lasting
from neurochorus.pretrain.costs.matrix_product import measured_peak_tflops
from neurochorus.pretrain.watching.drawn import DrawnSamples
from neurochorus.pretrain.watching.outside import TensorBoardSink, WandbSink, refuse_missing_tensorboard
from neurochorus.pretrain.watching.profiling import StepProfiler
from neurochorus.pretrain.watching.progress import ProgressLine
from neurochorus.pretrain.watching.sources import SourceLosses
from neurochorus.pretrain.watching.speed import Speed

if TYPE_CHECKING:
    from neurochorus.pretrain.stages import Stage


class Watch:
    """Progress of a run. On ranks other than 0 it shows and writes nothing, but must be told the same.

    Raises ValueError, on all ranks, when a package that the settings ask for is not there.
    """

    def __init__(self, config: RunConfig, run_dir: Path, first: bool):
        refuse_missing_tensorboard(config)
        self._config, self._first, self._log_every = config, first, config.train.log_every
        self._console = Console(file=lasting(sys.stderr), quiet=not first, soft_wrap=True)
        self._progress = ProgressLine(self._console)
        self._profiler = StepProfiler(config.watch.profile_steps if first else None, run_dir / "traces")
        self._speed: Speed | None = None
        self._seconds: dict[str, float] = {}
        self._file, self._sinks = None, []
        if first:
            cut_partial_line(run_dir / "metrics.jsonl")
            self._file = (run_dir / "metrics.jsonl").open("a", buffering=1)
            self._sinks = [WandbSink(config, run_dir, self.say)]
            self._sinks += [TensorBoardSink(run_dir)] if config.watch.tensorboard else []

    def say(self, text: str) -> None:
        self._console.print(text, highlight=False, markup=False)

    def begin(self, stage: str, start: int, steps: int, device: torch.device | None = None) -> None:
        if not self._first:
            return
        if self._speed is None:
            self._speed = Speed(self._peak_tflops(device or torch.device("cpu")))
        self._speed.restart()
        self.say(f"{stage}: steps {start + 1} to {steps}" if start < steps else f"{stage}: all {steps} steps are done")
        self._progress.begin(stage, start, steps)
        self._profiler.before(stage, start + 1)

    def work(self, stage: "Stage", batches: Sequence[Batch]) -> None:
        """Note what this rank computes in a step."""
        if self._speed is not None:
            self._speed.add_work(stage, batches)

    def step(
        self,
        stage: str,
        step: int,
        samples_seen: int,
        sums: dict[str, Tensor],
        rate: float,
        norm: float,
        waited: float,
        scores: Mapping[str, float] | None = None,
        sources: SourceLosses | None = None,
        drawn: DrawnSamples | None = None,
    ) -> None:
        """Note one step; every `log_every` steps, and with `scores` of an evaluation, it is written and shown.

        `sums` are already over all ranks; `sources` become so here, when a line is due, which is so on all ranks alike.
        `drawn` says what the samples so far were of.
        """
        if self._speed is not None:
            self._speed.add(sums["bins"], waited)
            self._say_trace(self._profiler.after(step))
            self._profiler.before(stage, step + 1)
        if step % self._log_every and step != 1 and not scores:
            return
        by_source = {} if sources is None else sources.take()
        if self._speed is None:
            return
        line = {
            "stage": stage,
            "step": step,
            "samples_seen": samples_seen,
            **{("loss" if k == "loss" else f"loss_{k}"): float(v) for k, v in sums.items() if k != "bins"},
            **(scores or {}),
            "lr": rate,
            "grad_norm": norm,
            **self._speed.take(),
            **{f"{name}_s": seconds for name, seconds in self._seconds.items()},
            **({f"loss_by_{self._config.watch.sources}": by_source} if by_source else {}),
            **({} if drawn is None else drawn.after(samples_seen)),
        }
        self._seconds = {}
        self._write(line)
        for sink in self._sinks:
            sink.write(stage, line)
        self._progress.show(line)

    def end(self, stage: str) -> None:
        self._progress.end()
        self._say_trace(self._profiler.finish())
        self.say(f"{stage}: done")

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Add the seconds spent inside to the next line as `{name}_s`."""
        begun = time.perf_counter()
        yield
        self._seconds[name] = self._seconds.get(name, 0.0) + time.perf_counter() - begun

    def close(self, exit_code: int = 0) -> None:
        self._progress.end()
        self._say_trace(self._profiler.finish())
        if self._file is not None:
            self._file.close()
        for sink in self._sinks:
            sink.close(exit_code)

    def _write(self, line: Mapping[str, Any]) -> None:
        file, self._file = self._file, None  # of one that failed, closing would fail too, and say less
        assert file is not None
        try:
            file.write(json.dumps(line) + "\n")
        except OSError as error:
            raise OSError(
                f"{file.name}: cannot be written ({error.strerror}); the checkpoints are untouched: make room and run "
                "the same command again"
            ) from None
        self._file = file

    def _peak_tflops(self, device: torch.device) -> float:
        stated = self._config.watch.peak_tflops
        return measured_peak_tflops(device, self._config.train.precision) if stated is None else stated

    def _say_trace(self, path: Path | None) -> None:
        if path is not None:
            self.say(f"profile: {path}")


def cut_partial_line(path: Path) -> None:
    """Remove a last line without an end, which a crash left, so that the next line starts on its own."""
    if path.is_file():
        whole = path.read_bytes().rpartition(b"\n")
        if whole[2]:
            os.truncate(path, len(whole[0]) + len(whole[1]))
