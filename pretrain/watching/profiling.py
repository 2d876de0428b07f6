"""PyTorch's profiler over chosen steps of each stage, to a trace in the run directory (chrome://tracing, Perfetto)."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile


class StepProfiler:
    """Profiles the steps from `steps[0]` to `steps[1]`, both included and counted from 1; None: nothing."""

    def __init__(self, steps: Sequence[int] | None, folder: Path):
        self._steps, self._folder = steps, folder
        self._stage = ""
        self._running: profile | None = None

    def before(self, stage: str, step: int) -> None:
        """To be called before a step, and with the number of the next one after it."""
        if self._steps is None or step != self._steps[0] or self._running is not None:
            return
        activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if torch.cuda.is_available() else [])
        self._stage, self._running = stage, profile(activities=activities, record_shapes=True, profile_memory=True)
        self._running.start()

    def after(self, step: int) -> Path | None:
        """To be called after a step; the trace's path when it was the last one to be profiled."""
        return self.finish() if self._steps is not None and step >= self._steps[1] else None

    def finish(self) -> Path | None:
        """Write what was profiled so far, if anything."""
        if self._running is None or self._steps is None:
            return None
        self._running.stop()
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / f"{self._stage}_steps_{self._steps[0]}_{self._steps[1]}.json.gz"
        self._running.export_chrome_trace(str(path))
        self._running = None
        return path
