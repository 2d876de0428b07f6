"""Calibration of a forecast over sessions, as plain values: the part of metrics.json that says how far to trust it.

H bins ahead (leads), R ranks, S samples. A figure of a session comes from means over its windows, and what is given is
the mean over sessions with its standard error. With one session the error is that of a jackknife over its windows.
"""

import math
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import numpy as np

from neurochorus.pretrain.evaluation.calibration import (
    HISTOGRAM_BINS,
    LEVELS,
    EnsembleScores,
    coverage,
    plain_interval_coverage,
    rank_histogram,
    spread_skill,
)
from neurochorus.pretrain.evaluation.multivariate_scores import MOST_VARIOGRAM_CHANNELS

HEADLINE_LEVEL = 0.9
SCORES = ("crps", "energy_score", "variogram_score")
"Figures that are given session by session at every lead, so that heads can be compared within sessions."
OF_STRETCH = ("coverage", "spread_skill", "rmse")
"Figures that are given session by session over all leads together."
DEFINITIONS = {
    "latents": "whitened latents of the recorded bins, as the autoencoder reads them, against sampled latents",
    "units": "counts (or signal) of each unit in each bin against sampled ones",
    "population": "counts of each bin summed over units (a continuous signal: their mean) against sampled ones",
    "coverage": "share of recorded values inside the central interval of the samples, by randomised ranks: a perfect "
    "model covers exactly the level, with any number of samples. plain_interval_coverage: what the interval between "
    "plain quantiles of as many samples would cover if the model were perfect.",
    "rank_histogram": "share of recorded values by their rank among the samples, in equal parts of [0, 1]",
    "spread_skill": "sqrt((S + 1) / S mean variance between samples) / RMSE of their mean; below 1: over-confident",
    "crps": "fair continuous ranked probability score of one channel in one bin, mean over channels",
    "energy_score": "fair energy score of the vector of channels of a bin; stretch: of all bins of the horizon at once",
    "variogram_score": "fair variogram score of order 0.5 over pairs of channels of a bin; stretch: over pairs of "
    f"values of one channel 1, 2, 4, 8, ... bins apart. Not for more than {MOST_VARIOGRAM_CHANNELS} channels.",
    "inflation": "factor by lead, fitted on the valid split over all sessions together, by which the spread of a row's "
    "sampled latents is scaled in its recalibrated row: 1.2 means that they should be a fifth wider",
    "stretch": "over all leads together: means of coverage, ranks and CRPS, and joint scores of the whole horizon",
}


def calibration_summary(
    scores: Mapping[str, Mapping[str, Mapping[str, EnsembleScores]]],
    samples: int,
    inflation: Mapping[str, np.ndarray] | None = None,
) -> dict[str, Any]:
    """The calibration of each row (such as a head): {row: {what: {session: scores}}} -> plain values.

    `what` is latents, units, population or recalibrated latents; the last become a row of their own, and `inflation`
    is what they were scaled by. The headline (`level`, `coverage_by_lead`) is of the first row's latents.
    """
    rows: dict[str, dict[str, Any]] = {}
    for row, parts in scores.items():
        for what, sessions in parts.items():
            recalibrated = what == "recalibrated latents"
            name, place = (f"{row}, recalibrated", "latents") if recalibrated else (row, what)
            rows.setdefault(name, {})[place] = _over_sessions(sessions, samples)
    first = next(iter(rows.values()))["latents"]["by_lead"]["coverage"]["mean"]
    sessions = len(next(iter(next(iter(scores.values())).values())))
    return {
        "level": HEADLINE_LEVEL,
        "coverage_by_lead": first[LEVELS.index(HEADLINE_LEVEL)],
        "definition": "share of the whitened latents of the recorded bins inside the central interval of the "
        "samples, over channels and windows, mean over sessions, at each lead in bins",
        "levels": list(LEVELS),
        "plain_interval_coverage": [plain_interval_coverage(level, samples) for level in LEVELS],
        "histogram_bins": HISTOGRAM_BINS,
        "standard_errors": "over sessions" if sessions > 1 else "over windows (jackknife)",
        "definitions": DEFINITIONS,
        "rows": rows,
        "inflation": {row: _plain(factor_H) for row, factor_H in (inflation or {}).items()},
    }


def score_tables(summary: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Name -> table (metric, definition, better, rows) of each score over the whole horizon, to be compared by session.

    Of the models' own latents there is none: those of two models are in other units.
    """
    made: dict[str, dict[str, Any]] = {}
    for row, parts in summary["rows"].items():
        for what in ("units", "population"):
            for figure in SCORES:
                sessions = parts.get(what, {}).get("stretch", {}).get(figure, {}).get("sessions", {})
                if any(value is not None for value in sessions.values()):
                    table = {"metric": figure, "definition": DEFINITIONS[figure], "better": "lower", "rows": {}}
                    made.setdefault(f"{what}: {figure}", table)["rows"][row] = {"sessions": sessions}
    return made


def _over_sessions(sessions: Mapping[str, EnsembleScores], samples: int) -> dict[str, Any]:
    """{by_lead or stretch: {figure: {mean, sem}}}; levels and leads are the axes of lists."""
    values = {name: _figures(_moments(scores), samples) for name, scores in sessions.items()}
    jackknife = None
    if len(sessions) == 1:
        only = next(iter(sessions.values()))
        windows = range(len(only.crps_NH)) if len(only.crps_NH) > 1 else ()
        jackknife = [_figures(_moments(only, without=window), samples) for window in windows]
    parts = next(iter(values.values()))
    return {
        part: {
            figure: _figure(
                {name: one[part][figure] for name, one in values.items()},
                np.stack([one[part][figure] for one in jackknife]) if jackknife else None,
                figure in SCORES or (part == "stretch" and figure in OF_STRETCH),
            )
            for figure in figures
        }
        for part, figures in parts.items()
    }


def _moments(scores: EnsembleScores, without: int | None = None) -> dict[str, np.ndarray]:
    """Means over the windows of a session, one of them left out if so told."""
    means = {field.name: getattr(scores, field.name).mean(axis=0) for field in fields(scores)}
    if without is None:
        return means
    windows = len(scores.crps_NH)
    return {name: (windows * mean - getattr(scores, name)[without]) / (windows - 1) for name, mean in means.items()}


def _figures(moments: Mapping[str, np.ndarray], samples: int) -> dict[str, dict[str, np.ndarray]]:
    """The figures of one session from means over its windows, {by_lead or stretch: {figure: values}}."""
    rank_HR, variance_H, error_H = moments["rank_NHR"], moments["variance_NH"], moments["squared_error_NH"]
    coverage_KH = np.stack([coverage(rank_HR, level) for level in LEVELS])
    return {
        "by_lead": {
            "coverage": coverage_KH,
            "spread_skill": spread_skill(variance_H, error_H, samples),
            "rmse": np.sqrt(error_H),
            "crps": moments["crps_NH"],
            "energy_score": moments["energy_NH"],
            "variogram_score": moments["variogram_NH"],
        },
        "stretch": {
            "coverage": coverage_KH.mean(axis=1),
            "rank_histogram": rank_histogram(rank_HR.mean(axis=0)),
            "rank_histogram_first_lead": rank_histogram(rank_HR[0]),
            "rank_histogram_last_lead": rank_histogram(rank_HR[-1]),
            "spread_skill": spread_skill(variance_H.mean(), error_H.mean(), samples),
            "rmse": np.sqrt(error_H.mean()),
            "crps": moments["crps_NH"].mean(),
            "energy_score": moments["stretch_energy_N"],
            "variogram_score": moments["stretch_variogram_N"],
        },
    }


def _figure(values: Mapping[str, np.ndarray], left_out: np.ndarray | None, by_session: bool) -> dict[str, Any]:
    stacked = np.stack(list(values.values()))
    count = len(stacked)
    error = None
    if count > 1:
        error = stacked.std(axis=0, ddof=1) / math.sqrt(count)
    elif left_out is not None:
        windows = len(left_out)
        error = np.sqrt((windows - 1) / windows * ((left_out - left_out.mean(axis=0)) ** 2).sum(axis=0))
    figure = {"mean": _plain(stacked.mean(axis=0)), "sem": None if error is None else _plain(error)}
    if by_session:
        figure["sessions"] = {name: _plain(value) for name, value in values.items()}
    return figure


def _plain(values: np.ndarray) -> Any:
    """Nested lists of numbers with six digits, None where there is none: JSON has no NaN."""
    if np.ndim(values):
        return [_plain(value) for value in values]
    return float(f"{values:.6g}") if math.isfinite(values) else None
