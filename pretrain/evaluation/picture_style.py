"""Colours and dress of the pictures. Set axes by axes: matplotlib's global settings stay as they are."""

import re
from collections.abc import Sequence
from io import BytesIO

from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure

RECORDED = "#1f2430"
CONTEXT = "#8a919c"
FLOOR = "#b9bec6"
MUTED = "#5c6470"
HEADS = {"energy": "#D55E00", "flow": "#0072B2", "gaussian": "#009E73"}
OTHER_HEAD = "#CC79A7"
METHODS = (OTHER_HEAD, "#E69F00", "#56B4E9", "#882255", "#999933", "#7a4b2a", *HEADS.values())
"Okabe and Ito's colours, which colour-blind readers tell apart, then three of Tol's muted ones."
DOTS_PER_INCH = 110


def head_colour(head: str) -> str:
    return HEADS.get(head, OTHER_HEAD)


def method_colours(names: Sequence[str]) -> dict[str, str]:
    """A colour for each method: that of the head that its name mentions first, another one where that is taken."""
    colours: dict[str, str] = {}
    for name in names:
        heads = sorted((head for head in HEADS if head in name), key=name.index)
        wanted = [HEADS[head] for head in heads[:1]]
        free = [colour for colour in (*wanted, *METHODS) if colour not in colours.values()]
        colours[name] = free[0] if free else OTHER_HEAD
    return colours


def new_figure(width_inches: float, height_inches: float) -> Figure:
    return Figure(figsize=(width_inches, height_inches), layout="constrained", facecolor="white")


def dress(axes: Axes, title: str = "", x: str = "", y: str = "") -> None:
    """Give axes their title and labels, and take away what is not data."""
    axes.set_title(title, fontsize=9, loc="left", color=RECORDED)
    axes.set_xlabel(x, fontsize=8.5, color=MUTED)
    axes.set_ylabel(y, fontsize=8.5, color=MUTED)
    axes.tick_params(labelsize=8, colors=MUTED, length=3, width=0.6)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(FLOOR)


def row_heading(row: SubFigure, title: str, words: str, colour: str) -> None:
    """Write the heading of a row of panels: its name in bold, then what it shows."""
    row.suptitle(f"$\\bf{{{_bold(title)}}}$   {words}", x=0.008, ha="left", fontsize=10, color=colour)


def row_legend(row: SubFigure, axes: Axes) -> None:
    """Explain the marks of `axes`, which stand for those of the whole row, at the right end of the row's heading."""
    handles, labels = axes.get_legend_handles_labels()
    row.legend(
        handles, labels, loc="upper right", ncols=len(labels), fontsize=8, frameon=False, labelcolor=RECORDED,
        handlelength=1.6, columnspacing=1.4, borderaxespad=0.15, markerscale=1.6,
    )  # fmt: skip


def png_bytes(figure: Figure) -> bytes:
    """Draw the figure; the same figure gives the same bytes."""
    buffer = BytesIO()
    figure.savefig(buffer, format="png", dpi=DOTS_PER_INCH, metadata={"Software": None})
    return buffer.getvalue()


def _bold(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9,-]", r"\\ ", text)
