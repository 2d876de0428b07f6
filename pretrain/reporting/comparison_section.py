"""Claims that one method beats another: the paired difference with its interval, as a chart and a table."""

from collections.abc import Mapping, Sequence
from textwrap import wrap
from typing import Any

import numpy as np

from neurochorus.pretrain.evaluation.evaluation_file import Evaluation
from neurochorus.pretrain.evaluation.paired_comparisons import PairedComparison
from neurochorus.pretrain.evaluation.picture_style import HEADS
from neurochorus.pretrain.evaluation.suite.paired import FEW_SESSIONS
from neurochorus.pretrain.reporting.cells import probability, whole
from neurochorus.pretrain.reporting.charts import MUTED, Panel, Picker, Plot, chart_group, label, level, points
from neurochorus.pretrain.reporting.html_page import Cell, Section, number, paragraph, table

WORDS = (
    "The first method minus the second in the same sessions. Intervals: 95 %, by paired bootstrap over sessions, of "
    f"fewer than {FEW_SESSIONS} sessions Student's. In colour: those that leave out zero. Several comparisons are "
    "shown: one in twenty of equal methods would do so by luck."
)
MOST_IN_CHART = 30


def comparison_section(evaluations: Sequence[Evaluation], names: Sequence[str]) -> Section | None:
    """None where no file has comparisons."""
    by_table: dict[str, list[tuple[str, PairedComparison]]] = {}
    for evaluation, name in zip(evaluations, names):
        for one in evaluation.comparisons:
            by_table.setdefault(one.table, []).append((name if len(evaluations) > 1 else "", one))
    if not by_table:
        return None
    metrics = {
        name: shown.title or f"{name}, {shown.metric.replace('_', ' ')}"
        for one in evaluations
        for name, shown in one.tables.items()
    }
    parts = [paragraph(WORDS)]
    parts.append(comparison_chart({metrics.get(name, name): found for name, found in by_table.items()}))
    every = [pair for found in by_table.values() for pair in found]
    parts.append(comparison_table(every, metrics))
    return Section("comparisons", "Which differences hold", "\n".join(parts))


def comparison_chart(of: Mapping[str, Sequence[tuple[str, PairedComparison]]]) -> str:
    """Differences with their intervals, the first at the top: score -> (label of the file or "", comparison).

    Scores without a defined difference are left out; with several, one is picked.
    """
    plots = {title: plot for title, found in of.items() if (plot := _plot(found)).traces}
    if not plots:
        return ""
    panel = Panel("", "Paired differences with their intervals", {(i,): p for i, p in enumerate(plots.values())}, (0,))
    longest = max(map(len, of.values()))
    more = f"At most {MOST_IN_CHART} of a score; all are in the table." if longest > MOST_IN_CHART else ""
    return chart_group([panel], pickers=[Picker("score", list(plots))], caption=more)


def _plot(found: Sequence[tuple[str, PairedComparison]]) -> Plot:
    shown = list(found)[:MOST_IN_CHART][::-1]
    names = [_name(label_, one) for label_, one in shown]
    difference = np.array([one.difference for _, one in shown])
    low, high = (np.array([getattr(one, end) for _, one in shown]) for end in ("low", "high"))
    clear = (low > 0) | (high < 0)
    traces = []
    for certain, colour in ((True, HEADS["flow"]), (False, MUTED)):
        chosen = (clear == certain) & np.isfinite(difference)
        if not chosen.any():
            continue
        traces += points(
            "", difference[chosen], np.flatnonzero(chosen).astype(float), colour, 9, 1.0,
            texts=[f"{one.difference:+.4f}, {one.low:+.4f} to {one.high:+.4f}, better in {one.wins} of {one.sessions}"
                   for (_, one), take in zip(shown, chosen) if take],
            hovertemplate="%{text}",
        )  # fmt: skip
        up, down = high[chosen] - difference[chosen], difference[chosen] - low[chosen]
        ends = {"array": np.nan_to_num(up).tolist(), "arrayminus": np.nan_to_num(down).tolist()}
        traces[-1]["error_x"] = {"type": "data", "symmetric": False, "color": colour, "thickness": 1.6, **ends}
    axis = {
        "tickvals": list(range(len(names))), "ticktext": ["<br>".join(wrap(label(name), 30)) for name in names],
        "range": [-0.6, len(names) - 0.4], "showgrid": False, "ticks": "", "fixedrange": True,
            "automargin": True, "zeroline": False,
    }  # fmt: skip
    layout: dict[str, Any] = {"xaxis": {"title": "difference"}, "yaxis": axis, "shapes": [level(0.0, vertical=True)]}
    layout["height"] = 60 + sum(14 + 16 * len(wrap(name, 30)) for name in names)
    return Plot(traces, layout)


def comparison_table(found: Sequence[tuple[str, PairedComparison]], metrics: Mapping[str, str]) -> str:
    """Every comparison; columns that no comparison fills are left out."""
    rows: list[list[Cell | str]] = []
    for file, one in found:
        ends = f"{number(one.low, signed=True).text} to {number(one.high, signed=True).text}"
        rows.append(
            [
                f"{one.better_row} against {one.than_row}",
                metrics.get(one.table, one.table),
                one.fraction,
                file,
                number(one.difference, signed=True),
                Cell(ends, one.low),
                probability(one.p),
                whole(one.sessions),
                Cell(f"{one.wins} of {one.sessions}", one.wins),
                "" if one.subjects is None else Cell(f"{one.subjects_won} of {one.subjects}", one.subjects_won),
            ]
        )
    header = ["comparison", "of", "fraction", "file", "difference", "95 % interval", "p", "sessions", "sessions better"]
    header += ["animals better"]
    used = [place for place in range(len(header)) if place not in (1, 2, 3, 9) or any(row[place] for row in rows)]
    texts = [used.index(place) for place in (0, 1, 3) if place in used]
    return table([header[i] for i in used], [[row[i] for i in used] for row in rows], text_columns=texts)


def _name(file: str, one: PairedComparison) -> str:
    name = f"{one.better_row} − {one.than_row}"
    name += f", {one.fraction}" if one.fraction else ""
    return f"{name} ({file})" if file else name
