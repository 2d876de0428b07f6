"""Scores of methods, one table at a time: a chart of every session, means, differences from the best baseline."""

from collections.abc import Mapping, Sequence
from html import escape
from textwrap import wrap

import numpy as np

from neurochorus.pretrain.evaluation.evaluation_file import TABLES, Evaluation, Table
from neurochorus.pretrain.evaluation.score_comparison import (
    BASELINES,
    Comparison,
    compare_scores,
    difference,
    is_bound,
    is_learned,
    labels,
)
from neurochorus.pretrain.reporting.cells import whole, with_error
from neurochorus.pretrain.reporting.charts import (
    FLOOR,
    Key,
    Panel,
    Plot,
    Trace,
    chart_group,
    label,
    level,
    plain,
    points,
)
from neurochorus.pretrain.reporting.html_page import Cell, Section, details, number, paragraph, table
from neurochorus.pretrain.reporting.method_keys import method_keys

HEADINGS = {"forecast": "Forecast", "reconstruction": "Reconstruction"}
MOST_JOINED = 150
"Sessions up to which their dots are joined by lines."
MOST_ROWS_OPEN = 40
"Sessions up to which the table of sessions is open from the start."


def score_sections(evaluations: Sequence[Evaluation]) -> tuple[list[str], list[Section]]:
    """The findings of the forecast table, one a line; a section for each of TABLES, and one for all other tables."""
    lead, sections = [], []
    for name in TABLES:
        comparisons = compare_scores(evaluations, name)
        if comparisons:
            sections.append(Section(name, HEADINGS[name], _comparisons(name, HEADINGS[name], comparisons)))
        lead += [line for comparison in comparisons if name == "forecast" for line in _findings(comparison)]
    others = dict.fromkeys(name for one in evaluations for name in one.tables if name not in TABLES)
    if others:
        sections.append(_other_scores({name: compare_scores(evaluations, name) for name in others}))
    return lead, sections


def _other_scores(scores: Mapping[str, list[Comparison]]) -> Section:
    """Tables of means over the scores that were measured on the same methods, then each score, folded."""
    alike: dict[tuple[str, ...], list[Table]] = {}
    for comparisons in scores.values():
        for comparison in comparisons:
            alike.setdefault(tuple(sorted(comparison.table.rows)), []).append(comparison.table)
    parts = [_overview(tables) for tables in alike.values()]
    parts.append("<h3>Score by score</h3>")
    for name, comparisons in scores.items():
        first = comparisons[0].table
        title = f"{first.title}, {first.metric.replace('_', ' ')}"
        parts.append(details(title, _comparisons(name, title, comparisons, folded=True)))
    return Section("scores", "More scores", "\n".join(parts))


def _overview(tables: Sequence[Table]) -> str:
    """A line for each score, a column for each method."""
    methods = sorted(tables[0].rows, key=lambda name: not is_learned(name))
    rows = []
    for one in tables:
        best = max if one.higher_is_better else min
        means = {name: one.rows[name].mean for name in methods}
        top = best((mean for name, mean in means.items() if mean == mean and not is_bound(name)), default=None)
        cells = [
            Cell(with_error(mean, one.rows[name].standard_error), mean, mean == top and not is_bound(name))
            for name, mean in means.items()
        ]
        rows.append([one.title, one.metric.replace("_", " "), "higher" if one.higher_is_better else "lower", *cells])
    caption = "Means over sessions ± standard error; the best is blue."
    return table(["score", "metric", "better", *methods], rows, caption=caption, text_columns=(0, 1, 2))


def _comparisons(name: str, heading: str, comparisons: list[Comparison], folded: bool = False) -> str:
    parts = []
    for comparison in comparisons:
        scores = comparison.table
        if len(comparisons) > 1:
            parts.append(f"<h4>{escape(', '.join(labels(comparison.evaluations)))}</h4>")
        parts.append(paragraph(f"{scores.metric.replace('_', ' ')}: {scores.definition}"))
        keys = method_keys(list(scores.rows), comparison.learned)
        caption = "Dots: sessions, each joined by a thin line. Diamonds: mean ± standard error over sessions."
        if len(scores.sessions) > MOST_JOINED:
            caption = "Dots: sessions. Diamonds: mean ± standard error over sessions."
        panel = _score_panel(scores, keys, f"{heading} by method and session")
        parts.append(chart_group([panel], list(keys.values()), caption=caption))
        parts.append(_method_table(comparison))
        sessions = _session_table(comparison)
        if folded or len(scores.sessions) > MOST_ROWS_OPEN:
            parts.append(details(f"Session by session ({len(scores.sessions)})", sessions))
        else:
            parts += ["<h3>Session by session</h3>", sessions]
    return "\n".join(parts)


def _score_panel(scores: Table, keys: dict[str, Key], words: str) -> Panel:
    defined = [name for name, row in scores.rows.items() if np.isfinite(list(row.sessions.values())).any()]
    names = defined[::-1]  # upwards
    height = {name: place for place, name in enumerate(names)}
    sessions = scores.sessions
    values = np.array([[scores.rows[name].sessions.get(one, np.nan) for name in names] for one in sessions])
    traces: list[Trace] = []
    if len(sessions) <= MOST_JOINED:
        gaps = np.full((len(sessions), 1), np.nan)
        across = np.hstack([values, gaps]).ravel()
        up = np.tile([*height.values(), np.nan], len(sessions))
        traces.append({
            "type": "scatter", "mode": "lines", "x": across.tolist(), "y": up.tolist(), "hoverinfo": "skip",
            "line": {"color": FLOOR, "width": 0.8}, "opacity": 0.6,
        })  # fmt: skip
        for axis in ("x", "y"):
            traces[-1][axis] = [None if value != value else value for value in traces[-1][axis]]
    for place, name in enumerate(names):
        row, colour = scores.rows[name], keys[name].colour
        up = np.full(len(sessions), float(place))
        traces += points(name, values[:, place], up, colour, 6, 0.5, texts=sessions,
                         hovertemplate="%{text}: %{x:.4f}")  # fmt: skip
        mean = points(name, np.array([row.mean]), np.array([float(place)]), colour, 11, 1.0)
        for trace in mean:
            trace["marker"]["symbol"] = "diamond"
            trace["hovertemplate"] = f"mean {with_error(row.mean, row.standard_error)}"
            if np.isfinite(row.standard_error):
                trace["error_x"] = {"type": "data", "array": [row.standard_error], "color": colour, "thickness": 1.6}
        traces += mean
    better = "right" if scores.higher_is_better else "left"
    layout = {
        "xaxis": {"title": f"{label(scores.metric.replace('_', ' '))} (better to the {better})"},
        "yaxis": {
            "tickvals": list(height.values()), "ticktext": ["<br>".join(wrap(label(name), 26)) for name in names],
            "range": [-0.6, len(names) - 0.4], "showgrid": False, "ticks": "", "fixedrange": True,
            "automargin": True, "zeroline": False,
        },
        "shapes": [level(0.0, vertical=True)] if values.size and np.nanmin(values, initial=0.0) < 0 else [],
    }  # fmt: skip
    return plain("", words, Plot(traces, layout), 70 + 40 * len(names))


def _findings(comparison: Comparison) -> list[str]:
    """One line for each learned method: its score, and its distance from the best baseline."""
    lines = []
    metric = comparison.table.metric.replace("_", " ")
    for name in comparison.learned:
        row = comparison.table.rows[name]
        line = f"{name}: forecasts at {with_error(row.mean, row.standard_error)} {metric}"
        if comparison.reference is not None:
            gap = difference(comparison.table, name, comparison.reference)
            line += (
                f"; {with_error(gap.mean, gap.standard_error, signed=True)} against {comparison.reference}, "
                f"the best baseline; better in {gap.better} of {gap.sessions} sessions"
            )
        lines.append(line + ".")
    return lines


def _method_table(comparison: Comparison) -> str:
    scores, reference = comparison.table, comparison.reference
    header = ["method", "mean", "standard error", "sessions"]
    if reference is not None:
        header += [f"minus {reference}", "standard error", "sessions better"]
    rows = []
    for name, row in scores.rows.items():
        known = sum(value == value for value in row.sessions.values())
        cells: list[Cell | str] = [name, number(row.mean), number(row.standard_error), whole(known)]
        if reference is not None and name != reference:
            gap = difference(scores, name, reference)
            cells += [
                number(gap.mean, signed=True),
                number(gap.standard_error),
                Cell(f"{gap.better} of {gap.sessions}", gap.better),
            ]
        elif reference is not None:
            cells += [Cell("–")] * 3
        rows.append(cells)
    caption = "Standard errors are over sessions. Differences are taken within a session"
    best = ", the baseline with the best mean" if reference in BASELINES else ""
    caption += f" from {reference}{best}." if reference is not None else "."
    return table(header, rows, caption=caption)


def _session_table(comparison: Comparison) -> str:
    scores = comparison.table
    known = {name: facts for evaluation in comparison.evaluations for name, facts in evaluation.sessions.items()}
    best = max if scores.higher_is_better else min
    rows = []
    for session in scores.sessions:
        values = {name: row.sessions.get(session, float("nan")) for name, row in scores.rows.items()}
        top = best((value for value in values.values() if value == value), default=None)
        facts = known.get(session, {})
        rows.append(
            [
                session,
                str(facts.get("subject", "–")),
                *(whole(facts.get(fact)) for fact in ("units", "windows")),
                *(number(value, best=value == top) for value in values.values()),
            ]
        )
    footer = [
        ["mean", "", "", "", *(number(row.mean) for row in scores.rows.values())],
        ["standard error", "", "", "", *(number(row.standard_error) for row in scores.rows.values())],
    ]
    header = ["session", "subject", "units", "windows", *scores.rows]
    caption = "The best of a row is blue. A click on a header sorts."
    return table(header, rows, footer, caption, text_columns=(0, 1))
