"""Charts of how far forecasts can be trusted: coverage, ranks, spread over error and CRPS by lead."""

from collections.abc import Sequence

import numpy as np

from neurochorus.pretrain.evaluation.calibration_pictures import MOST_BANDS, TIME, Method, crps_gap
from neurochorus.pretrain.reporting.charts import Key, Panel, Plot, Trace, band, chart_group, level, line, plain
from neurochorus.pretrain.reporting.method_keys import method_keys

TICKS = (0.02, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.98)
"Of the logit axis of coverage."


def calibration_charts(what: str, methods: Sequence[Method], reference: str | None) -> str:
    """The four charts of latents, units or population; see calibration_pictures.calibration_picture."""
    keys = method_keys([method.name for method in methods], [method.name for method in methods])
    panels = [
        _coverage(methods, keys, what),
        _ranks(methods, keys, what),
        _spread(methods, keys, what),
        _crps(methods, keys, reference, what),
    ]
    return chart_group(panels, list(keys.values()), least_width=270)


def _coverage(methods: Sequence[Method], keys: dict[str, Key], what: str) -> Panel:
    traces, drawn = [], []
    for method in methods:
        figure = method.parts["by_lead"].get("coverage")
        for share, mean_H in zip(method.levels, () if figure is None else figure.mean):
            values = np.clip(mean_H, 0.01, 0.99)
            drawn.append(values)
            words = [f"{100 * share:g} % interval holds {100 * value:.1f} %" for value in mean_H]
            traces += _curve(method, keys, np.log(values / (1 - values)), text=words, hovertemplate="%{text}")
    levels = sorted({share for method in methods for share in method.levels})
    ticks = sorted({*levels, *(TICKS if len(levels) < 3 else ())})
    axis = {"title": "share inside, logit scale", "tickvals": [_logit(one) for one in ticks]}
    axis["ticktext"] = [f"{one:g}" for one in ticks]
    layout = {"xaxis": {"title": TIME}, "yaxis": axis, "shapes": [level(_logit(share)) for share in levels]}
    title = "coverage of central intervals"
    return plain(title, f"{title}, {what}, by time after the context", Plot(traces, layout))


def _ranks(methods: Sequence[Method], keys: dict[str, Key], what: str) -> Panel:
    traces, highest = [], 1.6
    for method in methods:
        figure = method.parts["stretch"].get("rank_histogram")
        if figure is None or not np.isfinite(figure.mean).any():
            continue
        bins, key = len(figure.mean), keys[method.name]
        density = bins * figure.mean
        highest = max(highest, 1.05 * float(np.nanmax(density)))
        edges = np.repeat(np.linspace(0, 1, bins + 1), 2)[1:-1]
        traces += line(method.name, np.repeat(density, 2), key.colour, edges, key.dash)
    axes = {"xaxis": {"title": "rank (0: below all, 1: above all)", "range": [0, 1]}}
    layout = {**axes, "yaxis": {"title": "density", "range": [0, highest]}, "shapes": [level(1.0)]}
    title = "ranks among the samples (PIT), all leads"
    return plain(title, f"{title}, {what}", Plot(traces, layout))


def _spread(methods: Sequence[Method], keys: dict[str, Key], what: str) -> Panel:
    traces = [trace for method in methods for trace in _figure(method, keys, "spread_skill", len(methods))]
    values = [method.parts["by_lead"]["spread_skill"].mean for method in methods
              if "spread_skill" in method.parts["by_lead"]]  # fmt: skip
    ends = np.concatenate([np.ravel(one) for one in values] or [np.ones(1)])
    ends = ends[np.isfinite(ends)]
    margin = 0.06
    shown = [min([0.8, *(ends - margin)]), max([1.1, *(ends + margin)])]
    layout = {"xaxis": {"title": TIME}, "yaxis": {"range": shown}, "shapes": [level(1.0)]}
    title = "spread / error"
    return plain(title, f"{title}, {what}, by time after the context", Plot(traces, layout))


def _crps(methods: Sequence[Method], keys: dict[str, Key], reference: str | None, what: str) -> Panel:
    against = next((method for method in methods if method.name == reference), None)
    layout: dict = {"xaxis": {"title": TIME}}
    if against is None:
        traces = [trace for method in methods for trace in _figure(method, keys, "crps", len(methods))]
        return plain("CRPS (less is better)", f"CRPS, {what}, by time after the context", Plot(traces, layout))
    traces = []
    for method in methods:
        gap = None if method is against else crps_gap(method, against)
        if gap is not None:
            traces += _with_band(method, keys, 100 * gap[0], 100 * gap[1], len(methods))
    layout |= {"yaxis": {"title": "% within sessions"}, "shapes": [level(0.0)]}
    title = f"CRPS against {reference} (less is better)"
    return plain(title, f"{title}, {what}, by time after the context", Plot(traces, layout))


def _figure(method: Method, keys: dict[str, Key], name: str, methods: int) -> list[Trace]:
    figure = method.parts["by_lead"].get(name)
    return [] if figure is None else _with_band(method, keys, figure.mean, figure.error, methods)


def _with_band(
    method: Method, keys: dict[str, Key], mean_H: np.ndarray, error_H: np.ndarray, methods: int
) -> list[Trace]:
    shade = []
    if methods <= MOST_BANDS:
        low, high = mean_H - 2 * error_H, mean_H + 2 * error_H
        shade = band(method.name, low, high, keys[method.name].colour, _times(method), 0.13)
    return shade + _curve(method, keys, mean_H)


def _curve(method: Method, keys: dict[str, Key], values_H: np.ndarray, **more: object) -> list[Trace]:
    key = keys[method.name]
    return line(method.name, values_H, key.colour, _times(method), key.dash, 1.6, **more)


def _times(method: Method) -> tuple[float, float]:
    return 1e3 * method.bin_s, 1e3 * method.bin_s


def _logit(share: float) -> float:
    return float(np.log(share / (1 - share)))
