"""Pictures of numbers: every session's score by method, and training curves."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from neurochorus.pretrain.evaluation.evaluation_file import Table
from neurochorus.pretrain.evaluation.picture_style import (
    FLOOR,
    METHODS,
    MUTED,
    RECORDED,
    dress,
    head_colour,
    method_colours,
    new_figure,
)
from neurochorus.pretrain.evaluation.run_history import Columns


def score_picture(table: Table, learned: Sequence[str]) -> Figure:
    """One dot a session for each method, in the order of the table; mean and standard error; `learned` in colour.

    A thin line joins the dots of one session, so that a difference that holds in every session shows.
    """
    names = list(table.rows)[::-1]  # upwards
    figure = new_figure(10.5, 0.9 + 0.42 * len(names))
    axes: Axes = figure.subplots()
    colours = method_colours(learned)
    height = {name: place for place, name in enumerate(names)}
    for session in table.sessions:
        path = [
            (table.rows[name].sessions[session], height[name]) for name in names if session in table.rows[name].sessions
        ]
        axes.plot(*np.transpose(path), color=FLOOR, linewidth=0.6, alpha=0.7, zorder=1)
    for name in names:
        row, place = table.rows[name], height[name]
        colour = colours.get(name, MUTED)
        axes.scatter(list(row.sessions.values()), [place] * len(row.sessions), s=16, color=colour, alpha=0.45,
                     linewidth=0, zorder=2)  # fmt: skip
        error = 0.0 if np.isnan(row.standard_error) else row.standard_error
        axes.errorbar(
            row.mean, place, xerr=error, fmt="D", markersize=6, color=colour, capsize=3, linewidth=1.6, zorder=3
        )
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(-0.6, len(names) - 0.4)
    axes.axvline(0, color=RECORDED, linewidth=0.7, zorder=0)
    better = "right" if table.higher_is_better else "left"
    dress(axes, "", f"{table.metric.replace('_', ' ')} (better to the {better})", "")
    axes.tick_params(axis="y", labelsize=9.5, labelcolor=RECORDED, length=0)
    axes.grid(axis="x", color="#eceef1", linewidth=0.8)
    axes.set_axisbelow(True)
    return figure


def training_picture(history: dict[str, Columns]) -> Figure:
    """A row of panels for each stage of one run: losses, gradient norm, learning rate, speed."""
    figure = new_figure(13, 2.5 * len(history) + 0.2)
    grid = figure.subplots(len(history), 4, squeeze=False)
    for row, (stage, columns) in zip(grid, history.items()):
        steps = columns["step"]
        parts = [name for name in columns if name == "loss" or name.startswith("loss_")]
        for place, name in enumerate(parts):
            total = name == "loss"
            colour = RECORDED if total else METHODS[place % len(METHODS)]
            label = "total" if total else name.removeprefix("loss_").replace("_", " ")
            row[0].plot(steps, columns[name], color=colour, linewidth=1.6 if total else 0.9, label=label)
        if len(parts) > 1:
            row[0].legend(fontsize=7.5, frameon=False)
        dress(row[0], f"{stage}: loss", "step", "loss")
        _curve(row[1], steps, columns, "grad_norm", "gradient norm")
        _curve(row[2], steps, columns, "lr", "learning rate")
        _curve(row[3], steps, columns, "bins_per_s", "speed", "bins/s")
    return figure


def _curve(axes: Axes, steps: np.ndarray, columns: Columns, name: str, title: str, unit: str = "") -> None:
    dress(axes, title, "step", unit)
    if name in columns:
        axes.plot(steps, columns[name], color=head_colour("flow"), linewidth=1.0)
    else:
        axes.text(0.5, 0.5, "not logged", transform=axes.transAxes, ha="center", color=MUTED, fontsize=8.5)
