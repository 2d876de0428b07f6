"""The points of a grid of settings, and how each of them did."""

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from neurochorus.pretrain.evaluation.run_history import HISTORY_FILE, read_run_history

LAST_SHARE = 0.1
"""Of a run's lines, whose mean is its final loss."""


@dataclass(frozen=True)
class Point:
    settings: dict[str, str]
    out: Path

    @property
    def name(self) -> str:
        return ",".join(f"{key}={value}" for key, value in self.settings.items())

    @property
    def folder(self) -> Path:
        return self.out / re.sub(r"[^\w.,=+-]", "_", self.name)

    @property
    def overrides(self) -> list[str]:
        return [f"{key}={value}" for key, value in self.settings.items()] + [f"run.dir={self.folder}"]

    @property
    def finished(self) -> bool:
        return (self.folder / "export" / "config.json").is_file()


@dataclass(frozen=True)
class Score:
    """Losses of the last stage that a run has reached; None where it has none."""

    HEADER: ClassVar[tuple[str, ...]] = ("stage", "step", "validation loss", "loss", "finished")

    stage: str
    step: int
    validation_loss: float | None
    """The best one."""
    loss: float | None
    """The mean of the last tenth of its lines."""
    finished: bool

    @property
    def order(self) -> tuple[bool, float]:
        """Finished runs first, then by validation loss, or by loss where nothing was validated."""
        value = self.loss if self.validation_loss is None else self.validation_loss
        return not self.finished, float("inf") if value is None else value

    def cells(self) -> list[str]:
        losses = ["" if value is None else f"{value:.5f}" for value in (self.validation_loss, self.loss)]
        return [self.stage, str(self.step), *losses, "yes" if self.finished else "no"]


def grid_points(grid: Sequence[str], out: Path) -> list[Point]:
    """Every combination of the values in `section.key=value,value`; commas inside brackets and braces are kept.

    Raises ValueError for another form, for a key that comes twice, and for run.dir.
    """
    axes: dict[str, list[str]] = {}
    for axis in grid:
        key, separator, text = axis.partition("=")
        values = [value.strip() for value in re.split(r",(?![^\[{]*[\]}])", text)]
        if not separator or not key or not all(values):
            raise ValueError(f"--grid {axis!r}: expected section.key=value,value,...")
        if key in axes or key == "run.dir":
            raise ValueError(f"--grid {key}: {'given twice' if key in axes else 'each point gets one of its own'}")
        axes[key] = values
    points = [Point(dict(zip(axes, values, strict=True)), out) for values in itertools.product(*axes.values())]
    if len({point.folder for point in points}) < len(points):
        raise ValueError("--grid: two points have the same name: give each value once")
    return points


def score_of(point: Point) -> Score:
    """From the point's metrics.jsonl, which may be missing."""
    if not (point.folder / HISTORY_FILE).is_file():
        return Score("", 0, None, None, point.finished)
    stage, columns = list(read_run_history(point.folder).items())[-1]
    validation = columns.get("validation_loss", np.array([]))
    validation = validation[np.isfinite(validation)]
    last = columns["loss"][-max(1, round(LAST_SHARE * len(columns["loss"]))) :]
    best = float(validation.min()) if len(validation) else None
    return Score(stage, int(columns["step"][-1]), best, float(last.mean()), point.finished)
