"""Scores of forecasts up to each lead, read back from metrics.json."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from neurochorus.pretrain.evaluation.json_fields import as_list, as_numbers, as_object, need


@dataclass(frozen=True)
class HorizonRow:
    """One method: values by lead (H,), NaN where undefined."""

    mean: np.ndarray
    standard_error: np.ndarray
    "NaN with a single session."
    sessions: dict[str, np.ndarray]


@dataclass(frozen=True)
class Horizons:
    metric: str
    definition: str
    leads_bins: np.ndarray
    rows: dict[str, HorizonRow]

    @property
    def sessions(self) -> list[str]:
        """Every session that any method has values for, in the order of the file."""
        return list(dict.fromkeys(session for row in self.rows.values() for session in row.sessions))


def read_horizons(path: Path, content: Any) -> Horizons:
    """Raises ValueError naming file and key for what is missing, no number, or not one value for each lead."""
    content = as_object(path, "horizons", content)
    leads = as_numbers(path, "horizons.leads_bins", need(path, content, "leads_bins", list, "horizons"))
    rows = {}
    for name, row in need(path, content, "rows", dict, "horizons").items():
        place = f"horizons.rows.{name}"
        row = as_object(path, place, row)
        error = row.get("sem")
        rows[name] = HorizonRow(
            _by_lead(path, f"{place}.mean", need(path, row, "mean", list, place), len(leads)),
            np.full(len(leads), np.nan) if error is None else _by_lead(path, f"{place}.sem", error, len(leads)),
            {
                session: _by_lead(path, f"{place}.sessions.{session}", values, len(leads))
                for session, values in as_object(path, f"{place}.sessions", row.get("sessions", {})).items()
                if values is not None
            },
        )
    metric = need(path, content, "metric", str, "horizons")
    return Horizons(metric, str(content.get("definition", "")), leads, rows)


def _by_lead(path: Path, name: str, values: Any, leads: int) -> np.ndarray:
    found = as_numbers(path, name, as_list(path, name, values))
    if found.shape != (leads,):
        raise ValueError(f"{path}: {name} has shape {found.shape}, expected one value for each of the {leads} leads")
    return found
