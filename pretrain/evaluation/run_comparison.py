"""Training curves of several runs in one picture: a column for each stage, a row for each quantity."""

from collections.abc import Mapping
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from neurochorus.pretrain.evaluation.picture_style import MUTED, dress, method_colours, new_figure
from neurochorus.pretrain.evaluation.run_history import Columns

Against = Literal["steps", "samples", "hours"]

ROWS = {"loss": "loss", "lr": "learning rate", "grad_norm": "gradient norm", "bins_per_s": "bins / s"}
SMOOTHED = {"loss", "grad_norm", "bins_per_s"}
SECONDS_AN_HOUR = 3600.0


def compare_runs(histories: Mapping[str, Mapping[str, Columns]], against: Against, smooth: float) -> Figure:
    """`histories`: name of a run -> stage -> columns, as `read_run_history` gives them.

    `smooth`: lines over which an exponential average forgets to 1 / e; 0: as written. Validation losses are dots.
    Raises ValueError for runs without times, which were made before they were written, against hours.
    """
    stages = list(dict.fromkeys(stage for history in histories.values() for stage in history))
    colours = method_colours(list(histories))
    figure = new_figure(1.5 + 4.2 * len(stages), 2.1 * len(ROWS))
    panels = figure.subplots(len(ROWS), len(stages), squeeze=False, sharex="col")
    for column, stage in enumerate(stages):
        for name, history in histories.items():
            if stage in history:
                _draw(panels[:, column], name, history[stage], colours[name], against, smooth)
        for axes, (quantity, label) in zip(panels[:, column], ROWS.items(), strict=True):
            dress(axes, stage if quantity == "loss" else "", against if axes is panels[-1, column] else "", label)
    handles = {label: handle for axes in panels[0] for handle, label in zip(*axes.get_legend_handles_labels())}
    figure.legend(handles.values(), handles.keys(), loc="outside upper left", fontsize=8, frameon=False, ncols=3)
    return figure


def _draw(panels: np.ndarray, name: str, columns: Columns, colour: str, against: Against, smooth: float) -> None:
    x = _places(name, columns, against)
    for axes, quantity in zip(panels, ROWS, strict=True):
        if quantity not in columns:
            continue
        values = columns[quantity]
        if quantity in SMOOTHED and smooth > 0:
            axes.plot(x, values, color=colour, linewidth=0.6, alpha=0.25)
            values = smoothed(values, smooth)
        axes.plot(x, values, color=colour, linewidth=1.3, label=name)
    _draw_validation(panels[0], x, columns, colour)


def _draw_validation(axes: Axes, x: np.ndarray, columns: Columns, colour: str) -> None:
    if "validation_loss" in columns:
        there = np.isfinite(columns["validation_loss"])
        dots = {"color": colour, "markeredgecolor": MUTED, "markeredgewidth": 0.4, "markersize": 3.5}
        axes.plot(x[there], columns["validation_loss"][there], "o", **dots)


def _places(name: str, columns: Columns, against: Against) -> np.ndarray:
    if against == "hours":
        if "elapsed_s" not in columns:
            raise ValueError(f"{name}: its lines have no elapsed_s: it is of an older version; plot it against steps")
        # time between runs of the same directory is not training, and steps that were repeated count once
        return np.cumsum(np.nan_to_num(columns["elapsed_s"])) / SECONDS_AN_HOUR
    return columns["step" if against == "steps" else "samples_seen"]


def smoothed(values: np.ndarray, lines: float) -> np.ndarray:
    """Exponential average that forgets to 1 / e over so many lines, without pull to its start; NaN is passed over."""
    keep, total, weight = np.exp(-1.0 / lines), 0.0, 0.0
    result = np.full(len(values), np.nan)
    for place, value in enumerate(values):
        if np.isfinite(value):
            total, weight = keep * total + value, keep * weight + 1.0
        if weight:
            result[place] = total / weight
    return result
