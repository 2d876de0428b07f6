"""What a run shows and keeps: one progress line, metrics.jsonl, wandb. Only rank 0 shows or writes anything.

Floats in metrics.jsonl read back exactly (JSON keeps Python's shortest repr of a double).
"""

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

from neurochorus.pretrain.config import RunConfig

LINE_SECONDS = 15.0  # between plain lines where the output is not a terminal


class Watch:
    """Progress of a run. On ranks other than 0 every method does nothing."""

    def __init__(self, config: RunConfig, run_dir: Path, first: bool):
        self._first, self._log_every = first, config.train.log_every
        self._console = Console(stderr=True, quiet=not first, soft_wrap=True)
        self._progress: Progress | None = None
        self._wandb: Any = None
        self._file = None
        self._seconds: dict[str, float] = {}
        self._last_line = self._since = time.perf_counter()
        self._bins = self._waited = 0.0
        if first:
            cut_partial_line(run_dir / "metrics.jsonl")
            self._file = (run_dir / "metrics.jsonl").open("a", buffering=1)
            self._wandb = _start_wandb(config, run_dir)

    def say(self, text: str) -> None:
        self._console.print(text, highlight=False, markup=False)

    def begin(self, stage: str, start: int, steps: int) -> None:
        self._since, self._bins, self._waited = time.perf_counter(), 0.0, 0.0
        if not self._first:
            return
        self.say(f"{stage}: steps {start + 1} to {steps}" if start < steps else f"{stage}: all {steps} steps are done")
        if self._console.is_terminal:
            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            self._progress = Progress(*columns, TextColumn("{task.fields[text]}"), console=self._console)
            self._progress.add_task(stage, total=steps, completed=start, text="")
            self._progress.start()

    def step(
        self, stage: str, step: int, samples_seen: int, sums: dict[str, Tensor], rate: float, norm: float, waited: float
    ) -> None:
        """Note one step; every `log_every` steps it is written and shown. `sums` are already over all ranks."""
        self._bins += float(sums["bins"]) if self._first else 0.0
        self._waited += waited
        if not self._first or (step % self._log_every and step != 1):
            return
        elapsed = time.perf_counter() - self._since
        parts = {name: float(value) for name, value in sums.items() if name != "bins"}
        line = {
            "stage": stage,
            "step": step,
            "samples_seen": samples_seen,
            **{("loss" if name == "loss" else f"loss_{name}"): value for name, value in parts.items()},
            "lr": rate,
            "grad_norm": norm,
            "bins_per_s": self._bins / elapsed,
            "data_wait": self._waited / elapsed,
            **{f"{name}_s": seconds for name, seconds in self._seconds.items()},
        }
        self._since, self._bins, self._waited, self._seconds = time.perf_counter(), 0.0, 0.0, {}
        assert self._file is not None
        self._file.write(json.dumps(line) + "\n")
        if self._wandb is not None:
            self._wandb.log(
                {f"{stage}/{name}": v for name, v in line.items() if name not in ("stage", "step")} | {"step": step}
            )
        self._show(line)

    def _show(self, line: dict[str, Any]) -> None:
        text = (
            f"loss {line['loss']:.4f}  lr {line['lr']:.1e}  |g| {line['grad_norm']:.2f}  "
            f"{line['bins_per_s']:,.0f} bins/s  data wait {100 * line['data_wait']:.1f} %"
        )
        if self._progress is not None:
            self._progress.update(self._progress.task_ids[0], completed=line["step"], text=text)
        elif time.perf_counter() - self._last_line > LINE_SECONDS or line["step"] == 1:
            self._last_line = time.perf_counter()
            self.say(f"{line['stage']} {line['step']}  {text}")

    def end(self, stage: str) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None
        self.say(f"{stage}: done")

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Add the seconds spent inside to the next line as `{name}_s`."""
        begun = time.perf_counter()
        yield
        self._seconds[name] = self._seconds.get(name, 0.0) + time.perf_counter() - begun

    def close(self, exit_code: int = 0) -> None:
        if self._progress is not None:
            self._progress.stop()
        if self._file is not None:
            self._file.close()
        if self._wandb is not None:
            self._wandb.finish(exit_code=exit_code)


def cut_partial_line(path: Path) -> None:
    """Remove a last line without an end, which a crash left, so that the next line starts on its own."""
    if path.is_file():
        whole = path.read_bytes().rpartition(b"\n")
        if whole[2]:
            os.truncate(path, len(whole[0]) + len(whole[1]))


def _start_wandb(config: RunConfig, run_dir: Path) -> Any:
    mode = config.wandb.mode
    if mode == "disabled":
        return None
    if mode == "auto":
        mode = "online" if os.environ.get("WANDB_API_KEY") else "offline"
    import wandb

    from neurochorus.data_shards.settings import settings_to_dict

    try:
        return wandb.init(
            project=config.wandb.project,
            dir=str(run_dir),
            mode=mode,
            name=run_dir.name,
            config=settings_to_dict(config),
            settings=wandb.Settings(silent=True, console="off", x_disable_stats=True),
        )
    except wandb.Error as error:
        raise ValueError(f"wandb.mode {mode}: {error} (wandb.mode=offline works without)") from None
