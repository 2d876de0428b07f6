"""Forecasts by rollout up to each of several leads.

N windows, H horizon bins, C units.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from neurochorus.pretrain.evaluation.baseline_forecasts import baseline_forecasts
from neurochorus.pretrain.evaluation.suite.paired import compare_rows
from neurochorus.pretrain.evaluation.suite.session_data import SessionData
from neurochorus.pretrain.evaluation.suite.tables import mean_and_sem

Values = dict[str, dict[str, list[float]]]
"Session -> row -> value at each lead."


def leads_within(asked: Sequence[int] | None, horizon_bins: int) -> list[int]:
    """The leads asked for, or 1, 2, 5, 10, 20, 50, ... and the horizon; ValueError for one beyond the horizon."""
    if asked is None:
        steps = [factor * 10**power for power in range(6) for factor in (1, 2, 5)]
        return sorted({lead for lead in steps if lead < horizon_bins} | {horizon_bins})
    if max(asked, default=0) > horizon_bins or not asked:
        raise ValueError(f"leads_bins: {asked}; expected leads of 1 to {horizon_bins} bins, the horizon")
    return sorted(set(asked))


def up_to_leads(
    data: SessionData,
    model_rates: Mapping[str, np.ndarray],
    leads: Sequence[int],
    measure: Callable[..., float],
    memory_bins: float | None = None,
) -> dict[str, list[float]]:
    """Row -> score of the bins up to each lead, of rollouts (N, H, C) and of baselines fitted for each lead anew.

    With a memory (`memory_bins`) there are baselines that have it too. A lead without a spike in any window gives NaN.
    """
    context, test = data.forecast.context_bins, data.windows(data.split).signal_NTC
    rows: dict[str, list[float]] = {row: [] for row in model_rates}
    for lead in leads:
        future = test[:, context : context + lead]
        predicted = {row: rates[:, :lead] for row, rates in model_rates.items()}
        predicted |= baseline_forecasts(data, memory_bins, lead)
        for row, values in predicted.items():
            try:
                score = measure(future, values)
            except ValueError:  # no spike (or no variance) so near the context
                score = float("nan")
            rows.setdefault(row, []).append(score)
    return rows


def horizons_section(metric: str, leads: Sequence[int], values: Values) -> dict[str, Any]:
    """The `horizons` entry of metrics.json."""
    rows: dict[str, Any] = {}
    for row in dict.fromkeys(row for session in values.values() for row in session):
        sessions = {
            session: [float(value) if np.isfinite(value) else None for value in found[row]]
            for session, found in values.items()
            if row in found
        }
        summary = [mean_and_sem({name: one[place] for name, one in sessions.items()}) for place in range(len(leads))]
        rows[row] = {
            "mean": [one["mean"] for one in summary],
            "sem": [one["sem"] for one in summary],
            "sessions": sessions,
        }
    return {
        "metric": metric,
        "definition": f"{metric} of all bins from the first of the horizon up to each lead, as fp-bps (NLB) is of all "
        "bins ahead, not of the bin at that lead. Forecasts are free-running; rates are those of the forecast table. "
        "The null is each unit's mean over the same bins; baselines are fitted and tuned for each lead.",
        "leads_bins": list(leads),
        "rows": rows,
    }


def horizon_comparisons(section: Mapping[str, Any], main: str, seed: int) -> list[dict[str, Any]]:
    """The main row against every other at each lead; `table` is "horizons, LEAD bins"; `lead_bins` says it too."""
    made = []
    for place, lead in enumerate(section["leads_bins"]):
        rows = {
            row: {session: values[place] for session, values in content["sessions"].items()}
            for row, content in section["rows"].items()
        }
        for other in rows:
            name = f"horizons, {lead} bins"
            entry = compare_rows(name, "higher", rows, main, other, seed) if other != main else None
            if entry is not None:
                made.append({**entry, "lead_bins": lead})
    return made
