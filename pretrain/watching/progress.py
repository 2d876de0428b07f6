"""One line about a running stage: a bar where the output is a terminal, else a plain line now and then."""

import time
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

LINE_SECONDS = 15.0  # between plain lines where the output is not a terminal


class ProgressLine:
    def __init__(self, console: Console):
        self._console = console
        self._bar: Progress | None = None
        self._begun = self._last_line = time.perf_counter()
        self._start = self._steps = 0

    def begin(self, stage: str, start: int, steps: int) -> None:
        self._begun, self._start, self._steps = time.perf_counter(), start, steps
        if self._console.is_terminal:
            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            self._bar = Progress(*columns, TextColumn("{task.fields[text]}"), console=self._console)
            self._bar.add_task(stage, total=steps, completed=start, text="")
            self._bar.start()

    def show(self, line: Mapping[str, Any]) -> None:
        """Show a line of metrics.jsonl."""
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=line["step"], text=describe(line))
        elif time.perf_counter() - self._last_line > LINE_SECONDS or line["step"] == 1:
            self._last_line = time.perf_counter()
            text = f"{line['stage']} {line['step']}  {describe(line)}  {self._time_left(line['step'])}"
            self._console.print(text, highlight=False, markup=False)

    def end(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _time_left(self, step: int) -> str:
        seconds = (time.perf_counter() - self._begun) / max(1, step - self._start) * (self._steps - step)
        return f"{timedelta(seconds=round(seconds))} left"


def describe(line: Mapping[str, Any]) -> str:
    """Loss, learning rate, gradient norm, speed, MFU and waiting for data."""
    mfu = f"  MFU {100 * line['mfu']:.0f} %" if "mfu" in line else ""
    return (
        f"loss {line['loss']:.4f}  lr {line['lr']:.1e}  |g| {line['grad_norm']:.2f}  "
        f"{line['bins_per_s']:,.0f} bins/s{mfu}  data wait {100 * line['data_wait']:.1f} %"
    )
