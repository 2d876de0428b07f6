"""When to stop early: a signal, a STOP file, a spent time budget or a launcher that is gone, agreed on by all ranks.

The flag of each rank is summed with the other numbers of the step, so all ranks stop at the same step.
"""

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from neurochorus.pretrain.launcher_life import LauncherLife

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)


class StopRequest:
    """Whether this rank wants to stop, and why."""

    def __init__(self, run_dir: Path, max_hours: float | None, watch_file: bool):
        self.reason: str | None = None
        self._stop_file = run_dir / "STOP" if watch_file else None
        self._deadline = None if max_hours is None else time.monotonic() + 3600 * max_hours
        self._launcher = LauncherLife()

    @contextmanager
    def signals(self) -> Iterator[None]:
        """Turn SIGTERM, SIGINT and SIGUSR1 into a request to stop while inside.

        After such a request also outside: launchers and schedulers signal more than once, and a rank that has saved
        must not die of the second signal on its way out.
        """

        def note(number: int, _frame: FrameType | None) -> None:
            self.reason = f"signal {signal.Signals(number).name}"

        before = {number: signal.signal(number, note) for number in SIGNALS}
        try:
            yield
        finally:
            if self.reason is None:
                for number, handler in before.items():
                    signal.signal(number, handler)

    def wanted(self) -> bool:
        if self.reason is None and self._deadline is not None and time.monotonic() > self._deadline:
            self.reason = "train.max_hours is spent"
        if self.reason is None and self._stop_file is not None and self._stop_file.exists():
            self.reason = f"the file {self._stop_file} exists"
        if self.reason is None and self._launcher.over():
            self.reason = "the launcher that started this rank has ended"
        return self.reason is not None
