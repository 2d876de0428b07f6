"""Forecasts up to each lead: how fast the score of each method falls, over all sessions or in one of them."""

from collections.abc import Sequence

import numpy as np

from neurochorus.pretrain.evaluation.evaluation_file import Evaluation
from neurochorus.pretrain.evaluation.score_horizons import HorizonRow, Horizons
from neurochorus.pretrain.reporting.cells import with_error
from neurochorus.pretrain.reporting.charts import Key, Panel, Picker, Plot, band, chart_group, label, line
from neurochorus.pretrain.reporting.html_page import Cell, Section, paragraph, table
from neurochorus.pretrain.reporting.method_keys import method_keys

MOST_SESSIONS = 100
"Sessions that can be picked."


def horizon_section(evaluations: Sequence[Evaluation], names: Sequence[str]) -> Section | None:
    """None without horizons; methods of several files whose values differ carry the file's label."""
    known = [(one.horizons, one.bin_s, name) for one, name in zip(evaluations, names) if one.horizons is not None]
    parts = []
    for metric in dict.fromkeys(horizons.metric for horizons, _, _ in known):
        same = [one for one in known if one[0].metric == metric]
        title = metric.replace("_", " ")
        parts += [paragraph(f"{title}: {words}") for words in dict.fromkeys(one.definition for one, _, _ in same)]
        rows = _joined(same)
        sessions = list(dict.fromkeys(session for horizons, _, _ in same for session in horizons.sessions))
        keys = method_keys(list(rows))
        shown = sessions[:MOST_SESSIONS]
        picker = Picker("session", ["mean of all sessions", *shown])
        plots = {(0,): _plot(metric, rows, keys, None)}
        plots |= {(place,): _plot(metric, rows, keys, session) for place, session in enumerate(shown, start=1)}
        words = f"{metric} of forecasts against their length"
        caption = "Bands: two standard errors over sessions."
        if len(sessions) > len(shown):
            caption += f" The first {len(shown)} of {len(sessions)} sessions can be picked."
        panel = Panel("", words, plots, (0,), 340)
        parts += [chart_group([panel], list(keys.values()), [picker], caption), _table(rows)]
    return Section("horizons", "Score against lead", "\n".join(parts)) if parts else None


Rows = dict[str, tuple[Horizons, float, HorizonRow]]


def _joined(known: Sequence[tuple[Horizons, float, str]]) -> Rows:
    rows: Rows = {}
    for name in dict.fromkeys(name for horizons, _, _ in known for name in horizons.rows):
        found = [(horizons, bin_s, text) for horizons, bin_s, text in known if name in horizons.rows]
        first = found[0][0]
        same = all(
            np.array_equal(one.leads_bins, first.leads_bins)
            and np.allclose(one.rows[name].mean, first.rows[name].mean, rtol=1e-6, equal_nan=True)
            for one, _, _ in found
        )
        for horizons, bin_s, text in found[:1] if same else found:
            rows[name if same else f"{name} ({text})"] = (horizons, bin_s, horizons.rows[name])
    return rows


def _plot(metric: str, rows: Rows, keys: dict[str, Key], session: str | None) -> Plot:
    traces = []
    for name, (horizons, bin_s, row) in rows.items():
        leads = 1e3 * bin_s * horizons.leads_bins
        if session is None:
            error = 2 * row.standard_error
            traces += band(name, row.mean - error, row.mean + error, keys[name].colour, leads, 0.13)
        values = row.mean if session is None else row.sessions.get(session, np.full(len(leads), np.nan))
        traces += line(name, values, keys[name].colour, leads, keys[name].dash, mode="lines+markers")
    axes = {"xaxis": {"title": "length of the forecast (ms)"}, "yaxis": {"title": label(metric.replace("_", " "))}}
    return Plot(traces, {**axes, "hovermode": "x"})


def _table(rows: Rows) -> str:
    lengths = sorted({float(round(1e3 * bin_s * lead, 6)) for h, bin_s, _ in rows.values() for lead in h.leads_bins})
    cells: list[list[Cell | str]] = []
    for name, (horizons, bin_s, row) in rows.items():
        places = {float(round(1e3 * bin_s * lead, 6)): place for place, lead in enumerate(horizons.leads_bins)}
        cells.append([name])
        for length in lengths:
            place = places.get(length)
            if place is None:
                cells[-1].append(Cell("–"))
            else:
                mean, error = float(row.mean[place]), float(row.standard_error[place])
                cells[-1].append(Cell(with_error(mean, error), mean))
    return table(["method", *(f"{length:g} ms" for length in lengths)], cells)
