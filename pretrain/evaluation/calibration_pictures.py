"""The picture of how far forecasts can be trusted: a row of panels each for latents, units and population."""

from collections.abc import Sequence
from dataclasses import dataclass
from textwrap import fill
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Picture
from matplotlib.lines import Line2D
from matplotlib.ticker import NullLocator

from neurochorus.pretrain.evaluation.calibration_file import Figures
from neurochorus.pretrain.evaluation.picture_style import RECORDED, dress, method_colours, new_figure, row_heading

ROWS = {
    "latents": "whitened latents, as the encoder reads them from the recorded bins, against sampled ones",
    "units": "each unit in each bin against what was sampled for it; single counts are rarely surprising, their sum is",
    "population": "the sum over units of each bin (continuous signals: the mean) against sampled ones",
}
TIME = "time after the context (ms)"
LETTERS_IN_LINE = 190
TITLE_WIDTH = 44
MOST_BANDS = 4
"Of more methods the bands would cover each other; the tables give their standard errors."
NOMINAL: dict[str, Any] = {"color": RECORDED, "linewidth": 0.9, "linestyle": (0, (4, 3)), "zorder": 1}


@dataclass(frozen=True)
class Method:
    """How the samples of one method fared on latents, units or population."""

    name: str
    bin_s: float
    levels: list[float]
    parts: dict[str, Figures]
    "by_lead and stretch -> figure."


def calibration_picture(methods: dict[str, list[Method]], reference: str | None) -> Picture:
    """One row of panels for each of `methods`' keys (see ROWS): coverage, ranks, spread over error, CRPS.

    The last panel shows each method's CRPS minus that of `reference`, taken within sessions; without one, CRPS itself.
    """
    names = list(dict.fromkeys(method.name for each in methods.values() for method in each))
    colours = method_colours(names)
    in_line = max(1, min(5, LETTERS_IN_LINE // (8 + max(map(len, names)))))
    heights = [0.2 + 0.2 * (1 + len(names) // in_line), *[3.0] * len(methods)]
    picture = new_figure(14, sum(heights) + 0.2)
    legend, *rows = np.ravel(picture.subfigures(len(heights), 1, height_ratios=heights, hspace=0.03))  # type: ignore[arg-type]
    for row, (what, shown) in zip(rows, methods.items()):
        row_heading(row, what.capitalize(), ROWS[what], RECORDED)
        panels = row.subplots(1, 4)
        for method in shown:
            style = _style(method.name, colours)
            _coverage(panels[0], method, style)
            _ranks(panels[1], method, style)
            _by_lead(panels[2], method, "spread_skill", style, bands=len(shown) <= MOST_BANDS)
        _crps(panels[3], shown, reference, colours)
        _nominal(panels[:3], shown)
        dress(panels[0], "coverage of central intervals", TIME, "share inside, logit scale")
        dress(panels[1], "ranks among the samples, all leads", "rank (0: below all, 1: above all)", "density")
        dress(panels[2], "spread / error", TIME, "")
    marks = [Line2D([], [], linewidth=1.6, label=name, **_style(name, colours)) for name in names]
    marks.append(Line2D([], [], label="calibrated", **NOMINAL))
    legend.legend(handles=marks, loc="center left", ncols=in_line, fontsize=8.5, frameon=False)
    return picture


def _style(name: str, colours: dict[str, str]) -> dict[str, Any]:
    return {"color": colours[name], "linestyle": "--" if "recalibrated" in name else "-"}


def _by_lead(axes: Axes, method: Method, name: str, style: dict[str, Any], bands: bool) -> None:
    figure = method.parts["by_lead"].get(name)
    if figure is not None:
        _line(axes, method, figure.mean, figure.error if bands else None, style)


def _coverage(axes: Axes, method: Method, style: dict[str, Any]) -> None:
    figure = method.parts["by_lead"].get("coverage")
    for mean_H in () if figure is None else figure.mean:
        _line(axes, method, np.clip(mean_H, 0.01, 0.99), None, style)


def _ranks(axes: Axes, method: Method, style: dict[str, Any]) -> None:
    figure = method.parts["stretch"].get("rank_histogram")
    if figure is not None:
        bins = len(figure.mean)
        axes.stairs(bins * figure.mean, np.linspace(0, 1, bins + 1), baseline=None, linewidth=1.3, **style)


def _crps(axes: Axes, shown: Sequence[Method], reference: str | None, colours: dict[str, str]) -> None:
    bands = len(shown) <= MOST_BANDS
    against = next((method for method in shown if method.name == reference), None)
    if against is None:
        for method in shown:
            _by_lead(axes, method, "crps", _style(method.name, colours), bands)
        dress(axes, "CRPS", TIME, "less is better")
        return
    for method in shown:
        gap = None if method is against else crps_gap(method, against)
        if gap is not None:
            _line(axes, method, 100 * gap[0], 100 * gap[1] if bands else None, _style(method.name, colours))
    axes.axhline(0, linewidth=1.4, **_style(against.name, colours))
    dress(axes, fill(f"CRPS against {reference}", TITLE_WIDTH), TIME, "% within sessions (less is better)")


def crps_gap(method: Method, against: Method) -> tuple[np.ndarray, np.ndarray] | None:
    """CRPS by lead minus that of another method, as a fraction of the latter's: mean and standard error over sessions.

    None where a file does not give it session by session, or they share no session and number of leads.
    """
    mine, other = (one.parts["by_lead"].get("crps") for one in (method, against))
    if mine is None or other is None or mine.mean.shape != other.mean.shape:
        return None
    both = [name for name in mine.sessions if name in other.sessions]
    if not both:
        return None
    scale_H = np.mean([other.sessions[name] for name in both], axis=0)
    gaps = np.stack([mine.sessions[name] - other.sessions[name] for name in both]) / scale_H
    error = gaps.std(axis=0, ddof=1) / np.sqrt(len(both)) if len(both) > 1 else np.full(gaps.shape[1:], np.nan)
    return gaps.mean(axis=0), error


def _line(axes: Axes, method: Method, mean_H: np.ndarray, error_H: np.ndarray | None, style: dict[str, Any]) -> None:
    """A figure by lead, with a band of two standard errors where they are known and wanted."""
    times = 1e3 * method.bin_s * np.arange(1, len(mean_H) + 1)
    axes.plot(times, mean_H, marker="o" if len(mean_H) <= 30 else None, markersize=2.8, linewidth=1.4, **style)
    if error_H is not None and np.isfinite(error_H).any():
        low, high = mean_H - 2 * error_H, mean_H + 2 * error_H
        axes.fill_between(times, low, high, color=style["color"], alpha=0.12, linewidth=0)


def _nominal(panels: Sequence[Axes], shown: Sequence[Method]) -> None:
    """What a calibrated model would show, and limits that keep it in sight."""
    coverage, ranks, spread = panels
    levels = sorted({level for method in shown for level in method.levels})
    for level in levels:
        coverage.axhline(level, **NOMINAL)
    coverage.set_yscale("logit")
    coverage.set_yticks(levels, [f"{level:g}" for level in levels])
    coverage.yaxis.set_minor_locator(NullLocator())
    drawn = [line.get_ydata() for line in coverage.get_lines()]
    coverage.set_ylim(0.9 * min(np.min(values) for values in drawn), max(0.975, *(np.max(values) for values in drawn)))
    ranks.axhline(1, **NOMINAL)
    ranks.set(xlim=(0, 1), ylim=(0, max(1.6, ranks.get_ylim()[1])))
    spread.axhline(1, **NOMINAL)
    low, high = spread.get_ylim()
    spread.set_ylim(min(low, 0.8), max(high, 1.1))
