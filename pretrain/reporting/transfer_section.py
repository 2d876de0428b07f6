"""What adaptation to new sessions is worth: score against the amount of their data, arm by arm."""

from collections.abc import Sequence
from html import escape

import numpy as np

from neurochorus.pretrain.evaluation.paired_comparisons import PairedComparison
from neurochorus.pretrain.evaluation.transfer_file import Scores, Transfer
from neurochorus.pretrain.reporting.cells import with_error
from neurochorus.pretrain.reporting.charts import Key, Panel, Picker, Plot, band, chart_group, label, line
from neurochorus.pretrain.reporting.comparison_section import WORDS, comparison_chart, comparison_table
from neurochorus.pretrain.reporting.html_page import Cell, Section, details, number, paragraph, table
from neurochorus.pretrain.reporting.method_keys import method_keys

MOST_SESSIONS = 100
GIVEN_WORDS = "They hold given this pretrained model."
POOLED_WORDS = (
    "Sessions of one animal share it and a pretrained model, so p is too small where animals differ: see in how many "
    "of them the mean is better."
)
UNDEFINED = (float("nan"), float("nan"), float("nan"))


def transfer_section(transfers: Sequence[Transfer]) -> Section:
    """Curves and tables of each file."""
    parts = []
    for transfer in transfers:
        if len(transfers) > 1:
            parts.append(f"<h3>{escape(str(transfer.path))}</h3>")
        parts.append(paragraph(f"{transfer.metric.replace('_', ' ')}: {transfer.definition}"))
        parts += [_chart(transfer), _table(transfer), details("Session by session", _session_table(transfer))]
        if transfer.comparisons:
            parts += ["<h3>Which differences hold</h3>", paragraph(f"{WORDS} {_words(transfer)}")]
            every = [("", one) for one in transfer.comparisons]
            by_fraction: dict[str, list[tuple[str, PairedComparison]]] = {}
            for pair in every:
                by_fraction.setdefault(f"at {pair[1].fraction} of the data", []).append(pair)
            parts += [comparison_chart(by_fraction), comparison_table(every, {})]
    return Section("transfer", "Transfer to new sessions", "\n".join(part for part in parts if part))


def _words(transfer: Transfer) -> str:
    """What the tests of a file tell."""
    return POOLED_WORDS if any(one.subjects is not None for one in transfer.comparisons) else GIVEN_WORDS


def session_means(scores: Scores, text: str) -> dict[str, float]:
    """Mean over seeds in each session at one fraction, undefined seeds left out; sessions without any left out."""
    means = {session: values[np.isfinite(values)] for session, values in scores.get(text, {}).items()}
    return {session: float(values.mean()) for session, values in means.items() if len(values)}


def _chart(transfer: Transfer) -> str:
    rows = {**transfer.arms, **transfer.baselines}
    keys = method_keys(list(rows), list(transfer.arms))
    sessions = transfer.sessions[:MOST_SESSIONS]
    plots = {(0,): _plot(transfer, rows, keys, None)}
    plots |= {(place,): _plot(transfer, rows, keys, session) for place, session in enumerate(sessions, start=1)}
    seeds = f"{len(transfer.seeds)} seed{'s' * (len(transfer.seeds) != 1)}"
    caption = f"Means over sessions of means over {seeds}; bands: two standard errors over sessions. In one session: "
    caption += "means over seeds, bands from the lowest to the highest seed."
    words = f"{transfer.metric} against the fraction of the target's data, by way of adaptation"
    panel = Panel("", words, plots, (0,), 380)
    return chart_group([panel], list(keys.values()), [Picker("session", ["mean of all sessions", *sessions])], caption)


def _plot(transfer: Transfer, rows: dict[str, Scores], keys: dict[str, Key], session: str | None) -> Plot:
    across = 100 * np.array(list(transfer.fractions.values()))
    traces = []
    for name, scores in rows.items():
        curves = np.array([_point(scores, text, session) for text in transfer.fractions])
        key = keys[name]
        traces += band(name, curves[:, 1], curves[:, 2], key.colour, across, 0.13)
        traces += line(name, curves[:, 0], key.colour, across, key.dash, mode="lines+markers", connectgaps=True)
    x = {"title": "share of the target's training trials (%)", "tickvals": across.tolist()}
    x["ticktext"] = [f"{value:g}" for value in across]
    if len(across) > 1 and across.min() > 0 and across.max() / across.min() > 4:
        x["type"] = "log"
    return Plot(traces, {"xaxis": x, "yaxis": {"title": label(transfer.metric.replace("_", " "))}, "hovermode": "x"})


def _point(scores: Scores, text: str, session: str | None) -> tuple[float, float, float]:
    """Value and the ends of its band."""
    if session is not None:
        values = scores.get(text, {}).get(session, np.full(1, np.nan))
        values = values[np.isfinite(values)]
        return (values.mean(), values.min(), values.max()) if len(values) else UNDEFINED
    means = np.array(list(session_means(scores, text).values()))
    if not len(means):
        return UNDEFINED
    error = 2 * means.std(ddof=1) / np.sqrt(len(means)) if len(means) > 1 else np.nan
    return means.mean(), means.mean() - error, means.mean() + error


def _table(transfer: Transfer) -> str:
    rows: list[list[Cell | str]] = []
    for name, scores in {**transfer.arms, **transfer.baselines}.items():
        rows.append([name])
        for text in transfer.fractions:
            means = np.array(list(session_means(scores, text).values()))
            error = means.std(ddof=1) / np.sqrt(len(means)) if len(means) > 1 else np.nan
            rows[-1].append(Cell(with_error(float(means.mean()), float(error)), float(means.mean()))
                            if len(means) else Cell("–"))  # fmt: skip
    counts = [transfer.trials.get(text, {}) for text in transfer.fractions]
    footer = [["trials, median session", *(f"{np.median(list(one.values())):g}" if one else "–" for one in counts)]]
    header = ["arm", *(f"{100 * value:g} %" for value in transfer.fractions.values())]
    caption = "Means over sessions ± standard error."
    return table(header, rows, footer if any(counts) else (), caption)


def _session_table(transfer: Transfer) -> str:
    rows: list[list[Cell | str]] = []
    arms = {**transfer.arms, **transfer.baselines}
    for text, value in transfer.fractions.items():
        means = {name: session_means(scores, text) for name, scores in arms.items()}
        for session in transfer.sessions:
            if not any(session in one for one in means.values()):
                continue
            trials = transfer.trials.get(text, {}).get(session)
            rows.append(
                [session, Cell(f"{100 * value:g} %", value), Cell("–") if trials is None else Cell(str(trials), trials)]
            )
            rows[-1] += [number(one.get(session, float("nan"))) for one in means.values()]
    return table(["session", "data", "trials", *arms], rows, caption="Means over seeds.")
