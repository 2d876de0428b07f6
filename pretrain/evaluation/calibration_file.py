"""The calibration in metrics.json, read back and checked (calibration_summary.py writes it)."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from neurochorus.pretrain.evaluation.json_fields import as_number, as_numbers, as_object, need

WHATS = ("latents", "units", "population")
PARTS = ("by_lead", "stretch")


@dataclass(frozen=True)
class Figure:
    """A figure by lead (the last axis), or one of the whole stretch; coverage has the levels as its first axis."""

    mean: np.ndarray
    error: np.ndarray
    "Standard error of the mean, NaN where there is none."
    sessions: dict[str, np.ndarray]
    "Empty unless the file gives the figure session by session."


Figures = dict[str, Figure]


@dataclass(frozen=True)
class Calibration:
    level: float
    coverage_by_lead: list[float]
    "Of the latents of the evaluated model's own head."
    definition: str
    levels: list[float]
    definitions: dict[str, str]
    rows: dict[str, dict[str, dict[str, Figures]]]
    "Row -> latents, units or population -> by_lead or stretch -> figure."
    inflation: dict[str, np.ndarray]
    "Row -> factors by lead of its recalibration."


def read_calibration(path: Path, content: Any, head: str) -> Calibration:
    """Raises ValueError naming file and key for what is missing or no number.

    A file from before there were rows gives one row, named `head`, that holds the coverage at the one level.
    """
    content = as_object(path, "calibration", content)
    covered = need(path, content, "coverage_by_lead", list, "calibration")
    level = as_number(path, "calibration.level", content.get("level"))
    coverage = [as_number(path, f"calibration.coverage_by_lead[{lead}]", one) for lead, one in enumerate(covered)]
    definition = str(content.get("definition", ""))
    if "rows" not in content:
        mean = np.array([coverage])
        rows = {
            head: {"latents": {"by_lead": {"coverage": Figure(mean, np.full_like(mean, np.nan), {})}, "stretch": {}}}
        }
        return Calibration(level, coverage, definition, [level], {}, rows, {})
    rows = {}
    for row, whats in need(path, content, "rows", dict, "calibration").items():
        whats = as_object(path, f"calibration.rows.{row}", whats)
        rows[row] = {
            what: _parts(path, f"calibration.rows.{row}.{what}", whats[what]) for what in WHATS if what in whats
        }
    inflation = as_object(path, "calibration.inflation", content.get("inflation", {}))
    return Calibration(
        level,
        coverage,
        definition,
        as_numbers(path, "calibration.levels", need(path, content, "levels", list, "calibration")).tolist(),
        {name: str(words) for name, words in content.get("definitions", {}).items()},
        rows,
        {row: as_numbers(path, f"calibration.inflation.{row}", factors) for row, factors in inflation.items()},
    )


def _parts(path: Path, place: str, content: Any) -> dict[str, Figures]:
    parts = {part: need(path, as_object(path, place, content), part, dict, place) for part in PARTS}
    return {
        part: {name: _figure(path, f"{place}.{part}.{name}", value) for name, value in figures.items()}
        for part, figures in parts.items()
    }


def _figure(path: Path, place: str, content: Any) -> Figure:
    content = as_object(path, place, content)
    mean = as_numbers(path, f"{place}.mean", content.get("mean"))
    error = as_numbers(path, f"{place}.sem", content.get("sem"))
    if error.shape not in ((), mean.shape):
        raise ValueError(f"{path}: {place}.sem has shape {error.shape}, its mean {mean.shape}")
    sessions = as_object(path, f"{place}.sessions", content.get("sessions", {}))
    return Figure(
        mean,
        np.broadcast_to(error, mean.shape),
        {name: as_numbers(path, f"{place}.sessions.{name}", value) for name, value in sessions.items()},
    )
