"""metrics.json of launch/evaluate.py, read back and checked."""

import json
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from neurochorus.pretrain.evaluation.calibration_file import Calibration, read_calibration
from neurochorus.pretrain.evaluation.json_fields import as_list, as_number, as_object, need
from neurochorus.pretrain.evaluation.paired_comparisons import PairedComparison, read_comparisons
from neurochorus.pretrain.evaluation.score_horizons import Horizons, read_horizons

TABLES = ("forecast", "reconstruction")
LOWER_IS_BETTER = ("nll", "nats", "mse", "rmse", "mae", "crps", "energy_score", "variogram_score")


@dataclass(frozen=True)
class Row:
    """One method: its value in every session, their mean and the standard error of that mean over sessions."""

    mean: float
    standard_error: float
    "NaN with a single session."
    sessions: dict[str, float]


@dataclass(frozen=True)
class Table:
    metric: str
    definition: str
    rows: dict[str, Row]
    title: str = ""
    better: str | None = None
    "higher or lower; None: as the name of the metric says."

    @property
    def higher_is_better(self) -> bool:
        if self.better is not None:
            return self.better == "higher"
        return not any(self.metric == name or self.metric.endswith(f"_{name}") for name in LOWER_IS_BETTER)

    @property
    def sessions(self) -> list[str]:
        """Every session that any method has a value for, in the order of the file."""
        return list(dict.fromkeys(session for row in self.rows.values() for session in row.sessions))


@dataclass(frozen=True)
class Evaluation:
    """One evaluated model. `settings` are the plain entries and lists of the file: split, seed, samples, bins, ..."""

    path: Path
    model: str
    head: str
    bin_s: float
    settings: dict[str, Any]
    tables: dict[str, Table]
    calibration: Calibration | None
    sessions: dict[str, dict[str, Any]]
    "Session -> subject, windows, units."
    horizons: Horizons | None = None
    comparisons: tuple[PairedComparison, ...] = ()


def read_evaluation(path: Path) -> Evaluation:
    """Read metrics.json. Raises ValueError naming file and key for what is missing or no number; OSError otherwise."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON ({error}): make it with launch/evaluate.py") from error
    if not isinstance(content, dict):
        raise ValueError(
            f"{path} holds a {type(content).__name__}, expected an object: make it with launch/evaluate.py"
        )
    names = {name: need(path, content, name, str) for name in ("model", "head")}
    calibration = content.get("calibration")
    return Evaluation(
        path=path,
        **names,
        bin_s=as_number(path, "bin_s", content.get("bin_s")),
        settings={name: value for name, value in content.items() if _is_setting(value)},
        tables={name: _table(path, name, content[name]) for name in TABLES if content.get(name)} | _more(path, content),
        calibration=read_calibration(path, calibration, names["head"]) if calibration else None,
        sessions=need(path, content, "sessions", dict),
        horizons=read_horizons(path, content["horizons"]) if content.get("horizons") else None,
        comparisons=tuple(read_comparisons(path, content.get("comparisons") or [])),
    )


def _is_setting(value: Any) -> bool:
    parts = value if isinstance(value, list) else [value]
    return not any(isinstance(part, dict | list) for part in parts)


def _more(path: Path, content: dict[str, Any]) -> dict[str, Table]:
    """The tables of the file's list `tables`, by name."""
    tables: dict[str, Table] = {}
    for place, one in enumerate(as_list(path, "tables", content.get("tables") or [])):
        where = f"tables[{place}]"
        name = need(path, as_object(path, where, one), "name", str, where)
        if name in tables or name in TABLES:
            raise ValueError(f"{path}: {where}.name is {name!r}, which another table has: expected a new one")
        better = one.get("better")
        if better not in ("higher", "lower"):
            raise ValueError(f"{path}: {where}.better is {better!r}, expected higher or lower")
        tables[name] = replace(_table(path, where, one), title=str(one.get("title") or name), better=better)
    return tables


def _table(path: Path, name: str, content: Any) -> Table:
    content = as_object(path, name, content)
    rows = {}
    for method, row in need(path, content, "rows", dict, name).items():
        place = f"{name}.rows.{method}"
        sessions = need(path, as_object(path, place, row), "sessions", dict, place)
        values = {session: as_number(path, f"{place}.sessions.{session}", value) for session, value in sessions.items()}
        mean = as_number(path, f"{place}.mean", row.get("mean"))
        finite = [value for value in values.values() if math.isfinite(value)]
        if finite and not math.isclose(mean, float(np.mean(finite)), rel_tol=1e-4, abs_tol=1e-6):
            raise ValueError(f"{path}: {place}.mean is {mean}, but its sessions average {np.mean(finite):.6g}")
        rows[method] = Row(mean, as_number(path, f"{place}.sem", row.get("sem")), values)
    return Table(need(path, content, "metric", str, name), str(content.get("definition", "")), rows)
