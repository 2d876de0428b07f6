"""Scores of several evaluated models side by side: one table where they were measured on the same thing."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from neurochorus.pretrain.evaluation.evaluation_file import Evaluation, Row, Table

BASELINES = (
    "train mean",
    "trailing mean",
    "earlier mean",
    "persistence",
    "psth",
    "psth, train trials",
    "ridge",
    "ridge AR",
    "ridge mix",
    "ridge mix, earlier",
    "ridge, smoothed counts",
    "Poisson regression, smoothed counts",
    "raw counts",
    "raw signal",
    "smoothed counts",
    "smoothed signal",
    "ridge from the other units",
    "interpolation",
    "chance",
)
"Methods without a network, in the tables of forecasts, imputation and the suite."
NO_METHOD = ("floor", "ceiling", "null")
"A row whose name holds one of these words is a bound, not a method; every other row of a table is a learned model."
MUST_AGREE = ("data", "split", "context_bins", "horizon_bins", "stride_bins", "bin_s", "modality")
"Settings under which scores can stand in one table."


@dataclass(frozen=True)
class Comparison:
    table: Table
    learned: list[str]
    reference: str | None
    "The baseline with the best mean, against which differences are taken."
    evaluations: list[Evaluation]


@dataclass(frozen=True)
class Difference:
    """A method minus the reference, session by session."""

    mean: float
    standard_error: float
    better: int
    "Sessions in which the method is the better one."
    sessions: int


def is_learned(name: str) -> bool:
    """Whether a row is a network's, not that of a baseline or a bound such as a noise floor."""
    return name not in BASELINES and not is_bound(name)


def is_bound(name: str) -> bool:
    """Whether a row is no method at all, such as a noise floor."""
    return any(word in name.lower() for word in NO_METHOD)


def labels(evaluations: Sequence[Evaluation]) -> list[str]:
    """A short name for each: its head where that tells them apart, otherwise head and model, then a number."""
    names = [evaluation.head for evaluation in evaluations]
    if len(set(names)) < len(names):
        names = [f"{evaluation.head}, {evaluation.model}" for evaluation in evaluations]
    if len(set(names)) < len(names):
        names = [f"{name} ({place})" for place, name in enumerate(names, start=1)]
    return names


def compare_scores(evaluations: Sequence[Evaluation], name: str) -> list[Comparison]:
    """Join, best method first, the tables called `name` of all evaluations that agree on metric, sessions and settings.

    A method with the same values in several files is one row; where they differ, its rows carry the label of
    their evaluation.
    """
    groups: dict[str, list[int]] = {}
    for place, evaluation in enumerate(evaluations):
        if name in evaluation.tables:
            table = evaluation.tables[name]
            settings = [evaluation.settings.get(key) for key in MUST_AGREE]
            groups.setdefault(repr((table.metric, table.definition, sorted(table.sessions), settings)), []).append(
                place
            )
    names = labels(evaluations)
    return [_join([evaluations[i] for i in places], [names[i] for i in places], name) for places in groups.values()]


def difference(table: Table, method: str, reference: str) -> Difference:
    """Mean over the sessions that both have; NaN without any."""
    first, second = table.rows[method].sessions, table.rows[reference].sessions
    values = np.array([first[session] - second[session] for session in first if session in second])
    values = values[np.isfinite(values)]
    if not len(values):
        return Difference(math.nan, math.nan, 0, 0)
    error = float(values.std(ddof=1) / math.sqrt(len(values))) if len(values) > 1 else math.nan
    better = int((values > 0).sum() if table.higher_is_better else (values < 0).sum())
    return Difference(float(values.mean()), error, better, len(values))


def _join(evaluations: list[Evaluation], names: list[str], name: str) -> Comparison:
    versions: dict[str, list[tuple[str, Row]]] = {}
    for evaluation, label in zip(evaluations, names):
        for method, row in evaluation.tables[name].rows.items():
            versions.setdefault(method, []).append((label, row))
    rows: dict[str, Row] = {}
    learned = []
    for method, found in versions.items():
        same = all(_agree(row, found[0][1]) for _, row in found)
        for label, row in found[:1] if same else found:
            title = method if same else f"{method} ({label})"
            rows[title] = row
            if is_learned(method):
                learned.append(title)
    first = evaluations[0].tables[name]
    sign = 1 if first.higher_is_better else -1
    best_first = sorted(rows, key=lambda title: math.inf if math.isnan(rows[title].mean) else -sign * rows[title].mean)
    table = replace(first, rows={title: rows[title] for title in best_first})
    learned = [title for title in best_first if title in learned]
    baselines = [title for title in best_first if title not in learned]
    return Comparison(table, learned, baselines[0] if baselines else None, evaluations)


def _agree(first: Row, second: Row) -> bool:
    """Whether two rows hold the same values, to the rounding of another machine's linear algebra."""
    return first.sessions.keys() == second.sessions.keys() and all(
        math.isclose(value, second.sessions[session], rel_tol=1e-6, abs_tol=1e-9)
        or (math.isnan(value) and math.isnan(second.sessions[session]))
        for session, value in first.sessions.items()
    )
