"""Interactive charts of the page: what plotly.js is to draw, as plain values, and the HTML around it.

Traces and axes are written in plotly's own terms (its figure schema). A chart group is a row of panels that share a
legend, whose entries hide and show a row in all panels, and pickers, which choose what the panels show. Colours are
`#rrggbb` or one of the page's own, such as INK, which follow its light or dark scheme. All text is taken as plain text.
"""

import base64
import gzip
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any

import numpy as np

INK, MUTED, CONTEXT, FLOOR, PAPER = (f"var(--{name})" for name in ("ink", "muted", "context", "floor", "paper"))
DASHES = ("solid", "dash", "dot", "dashdot", "longdash")
SVG_DASHES = {"dash": "5 3", "dot": "1.5 2.5", "dashdot": "5 2 1.5 2", "longdash": "8 3"}
HEIGHT = 250
LEAST_WIDTH = 280
Trace = dict[str, Any]


@dataclass(frozen=True)
class Plot:
    """Traces and the parts of plotly's layout that are not the page's: axes (titles as plain strings), shapes, ..."""

    traces: list[Trace]
    layout: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Key:
    """An entry of a legend: the traces named so are hidden and shown by it."""

    name: str
    colour: str
    dash: str = "solid"
    kind: str = "line"
    "line, band or point."
    opacity: float = 1.0


@dataclass(frozen=True)
class Picker:
    label: str
    choices: Sequence[str]


@dataclass(frozen=True)
class Panel:
    """One plot, or one for each choice of the pickers in `uses` (places in the group's pickers).

    A choice without a plot hides the panel.
    """

    title: str
    words: str
    "What the panel shows, for whoever cannot see it."
    plots: Mapping[tuple[int, ...], Plot]
    uses: tuple[int, ...] = ()
    height: int = HEIGHT


def plain(title: str, words: str, plot: Plot, height: int = HEIGHT) -> Panel:
    """A panel that no picker changes."""
    return Panel(title, words, {(): plot}, height=height)


def chart_group(
    panels: Sequence[Panel],
    legend: Sequence[Key] = (),
    pickers: Sequence[Picker] = (),
    caption: str = "",
    least_width: int = LEAST_WIDTH,
) -> str:
    """The group as HTML; panels without a trace are left out, and "" is returned when none is left."""
    panels = [panel for panel in panels if any(plot.traces for plot in panel.plots.values())]
    if not panels:
        return ""
    content = [
        {
            "uses": list(panel.uses),
            "height": panel.height,
            "plots": {
                ",".join(map(str, choice)): {"traces": plot.traces, "layout": plot.layout}
                for choice, plot in panel.plots.items()
                if plot.traces
            },
        }
        for panel in panels
    ]
    shown = {trace.get("legendgroup") for panel in panels for plot in panel.plots.values() for trace in plot.traces}
    keys = "".join(_key(key) for key in legend if key.name in shown)
    selects = "".join(_select(picker) for picker in pickers)
    below = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    return (
        f'<figure class="charts" style="--least: {least_width}px">'
        + (f'<div class="controls">{selects}</div>' if selects else "")
        + (f'<div class="legend">{keys}</div>' if keys else "")
        + f'<div class="panels">{"".join(map(_panel, panels))}</div>{below}'
        + f'<script type="text/plain">{packed(json.dumps(content, allow_nan=False))}</script></figure>'
    )


def line(
    name: str,
    y: np.ndarray,
    colour: str,
    x: np.ndarray | tuple[float, float],
    dash: str = "solid",
    width: float = 1.8,
    **more: Any,
) -> list[Trace]:
    """A curve over `x`, values or (first, step); nothing for one without a finite value."""
    if not np.isfinite(y).any():
        return []
    across: dict[str, Any] = {"x0": x[0], "dx": x[1]} if isinstance(x, tuple) else {"x": numbers(x)}
    drawn = {"color": colour, "width": width, "dash": dash}
    trace = {"type": "scatter", "mode": "lines", "name": label(name), "legendgroup": name, **across, "y": numbers(y)}
    return [{**trace, "line": drawn, "hovertemplate": "%{y:.4~g}", **more}]


def band(
    name: str, low: np.ndarray, high: np.ndarray, colour: str, x: np.ndarray | tuple[float, float], opacity: float = 0.2
) -> list[Trace]:
    """The area between two curves, with the same name as its line; bins where either is undefined are left out."""
    across = x[0] + x[1] * np.arange(len(low)) if isinstance(x, tuple) else np.asarray(x, dtype=float)
    known = np.isfinite(low) & np.isfinite(high)
    if known.sum() < 2:
        return []
    across, low, high = across[known], np.asarray(low)[known], np.asarray(high)[known]
    return [
        {
            "type": "scatter", "mode": "lines", "name": label(name), "legendgroup": name, "fill": "toself",
            "x": numbers(np.concatenate([across, across[::-1]])), "y": numbers(np.concatenate([high, low[::-1]])),
            "line": {"width": 0}, "fillcolor": colour, "opacity": opacity, "hoverinfo": "skip",
        }
    ]  # fmt: skip


def points(
    name: str, x: np.ndarray, y: np.ndarray, colour: str, size: float = 6, opacity: float = 0.6, **more: Any
) -> list[Trace]:
    """Dots; pairs without two finite numbers are left out."""
    known = np.isfinite(x) & np.isfinite(y)
    if not known.any():
        return []
    marker = {"color": colour, "size": size, "opacity": opacity}
    texts = more.pop("texts", None)
    if texts is not None:
        more["text"] = [label(text) for text, one in zip(texts, known) if one]
    return [
        {
            "type": "scatter", "mode": "markers", "name": label(name), "legendgroup": name,
            "x": numbers(np.asarray(x)[known]), "y": numbers(np.asarray(y)[known]), "marker": marker,
            "hovertemplate": "%{x:.4~g}, %{y:.4~g}", **more,
        }
    ]  # fmt: skip


def diagonal(low: float, high: float) -> Trace:
    """The line on which two things are equal."""
    return {
        "type": "scatter", "mode": "lines", "x": [low, high], "y": [low, high], "hoverinfo": "skip",
        "line": {"color": MUTED, "width": 1},
    }  # fmt: skip


def level(value: float, vertical: bool = False) -> dict[str, Any]:
    """A dashed line across the plot, for `shapes` of a layout."""
    this, other = ("x", "y") if vertical else ("y", "x")
    return {
        "type": "line", f"{this}0": value, f"{this}1": value, f"{other}0": 0, f"{other}1": 1,
        f"{other}ref": "paper", "line": {"color": MUTED, "width": 1.3, "dash": "5px,4px"}, "layer": "between",
    }  # fmt: skip


def numbers(values: np.ndarray | Sequence[float]) -> dict[str, str]:
    """Numbers as plotly's typed array of float32 (bytes: uint8 stays); what is not finite is a gap."""
    array = np.asarray(values)
    if array.dtype != np.uint8:
        array = np.where(np.isfinite(array), array, np.nan).astype("<f4")
    spec = {"dtype": "u1" if array.dtype == np.uint8 else "f4"}
    if array.ndim > 1:
        spec["shape"] = ", ".join(map(str, array.shape))
    return {**spec, "bdata": base64.b64encode(np.ascontiguousarray(array).tobytes()).decode("ascii")}


def label(text: str) -> str:
    """Text as it is: plotly takes markup in names and titles."""
    return escape(text, quote=False)


def packed(text: str) -> str:
    """Text as gzip in base64, always the same for the same text; the page's script unpacks it."""
    return base64.b64encode(gzip.compress(text.encode("utf-8"), compresslevel=9, mtime=0)).decode("ascii")


def _panel(panel: Panel) -> str:
    title = f"<h4>{escape(panel.title)}</h4>" if panel.title else ""
    place = f'<div class="plot" role="img" aria-label="{escape(panel.words)}" style="height: {panel.height}px"></div>'
    return f'<div class="panel">{title}{place}</div>'


def _key(key: Key) -> str:
    style = f'style="stroke: {key.colour}; fill: {key.colour}"'
    dashed = f' stroke-dasharray="{SVG_DASHES[key.dash]}"' if key.dash in SVG_DASHES else ""
    marks = {
        "line": f'<line x1="0" y1="6" x2="22" y2="6" stroke-width="2.5" {style}{dashed}/>',
        "band": f'<rect x="0" y="1" width="22" height="10" fill-opacity="{key.opacity}" style="fill: {key.colour}"/>',
        "point": f'<circle cx="11" cy="6" r="4" {style}/>',
    }
    picture = f'<svg width="22" height="12" aria-hidden="true">{marks[key.kind]}</svg>'
    name = escape(key.name)
    return f'<button type="button" data-name="{name}" aria-pressed="true">{picture}{name}</button>'


def _select(picker: Picker) -> str:
    options = "".join(f'<option value="{place}">{escape(one)}</option>' for place, one in enumerate(picker.choices))
    return f"<label>{escape(picker.label)} <select>{options}</select></label>"
