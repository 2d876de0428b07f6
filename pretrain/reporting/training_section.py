"""Training curves of runs: losses, gradient norm, learning rate, speed, stage by stage."""

from collections.abc import Mapping
from html import escape

import numpy as np

from neurochorus.pretrain.evaluation.picture_style import METHODS
from neurochorus.pretrain.evaluation.run_history import Columns
from neurochorus.pretrain.reporting.cells import whole
from neurochorus.pretrain.reporting.charts import INK, Key, Panel, Plot, chart_group, line, plain
from neurochorus.pretrain.reporting.html_page import Section, number, table

MOST_POINTS = 800
"Of a curve with more, every second, third, ... point is drawn, and the last."
SINGLE = {"grad_norm": ("gradient norm", ""), "lr": ("learning rate", ""), "bins_per_s": ("speed", "bins/s")}


def training_section(histories: Mapping[str, dict[str, Columns]]) -> Section:
    """A row of charts for each stage of each run, and what was logged last."""
    parts = []
    for name, history in histories.items():
        parts.append(f"<h3>{escape(name)}</h3>")
        for stage, columns in history.items():
            panels, keys = _panels(stage, columns)
            parts.append(chart_group(panels, keys))
        rows = [
            [stage, whole(int(columns["step"][-1])), number(float(columns["loss"][-1])) if "loss" in columns else "–"]
            for stage, columns in history.items()
        ]
        parts.append(table(["stage", "last step logged", "last loss logged"], rows))
    return Section("training", "Training", "\n".join(parts))


def _panels(stage: str, columns: Columns) -> tuple[list[Panel], list[Key]]:
    keys: dict[str, Key] = {}
    panels = []
    for prefix, title in (("", "loss"), ("validation_", "validation loss")):
        whole_loss = f"{prefix}loss"
        names = [name for name in columns if name == whole_loss or name.startswith(f"{whole_loss}_")]
        traces = []
        for name in names:
            part = "total" if name == whole_loss else name.removeprefix(f"{whole_loss}_").replace("_", " ")
            colour = INK if part == "total" else METHODS[len(keys) % len(METHODS)]
            keys.setdefault(part, Key(part, colour))
            traces += _curve(part, columns, name, keys[part].colour, 2.0 if part == "total" else 1.2)
        panels.append(plain(f"{stage}: {title}", f"{title} and its parts, stage {stage}", _plot(traces, "loss")))
    for name, (title, unit) in SINGLE.items():
        traces = _curve(title, columns, name, METHODS[-2], 1.2) if name in columns else []
        panels.append(plain(f"{stage}: {title}", f"{title}, stage {stage}", _plot(traces, unit)))
    return panels, list(keys.values()) if len(keys) > 1 else []


def _curve(title: str, columns: Columns, name: str, colour: str, width: float) -> list:
    known = np.isfinite(columns[name])
    steps, values = columns["step"][known], columns[name][known]
    if not len(steps):
        return []
    stride = -(-len(steps) // MOST_POINTS)
    chosen = np.unique([*range(0, len(steps), stride), len(steps) - 1])
    return line(title, values[chosen], colour, steps[chosen], width=width)


def _plot(traces: list, unit: str) -> Plot:
    return Plot(traces, {"xaxis": {"title": "step"}, "yaxis": {"title": unit}, "hovermode": "x"})
