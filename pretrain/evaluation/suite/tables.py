"""Tables of the evaluation suite: a value for every row and session, mean and standard error over sessions."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

Better = Literal["higher", "lower"]


class Undefined(ValueError):
    """A measure that a session does not have; the message is the reason, shown in the table's note."""


@dataclass(frozen=True)
class TableSpec:
    """What a table is: a session adds values to the table of the same name."""

    name: str
    title: str
    metric: str
    definition: str
    better: Better = "higher"
    main: str | None = None
    "The row that is compared with every other one; None: the pairs alone."
    pairs: tuple[tuple[str, str], ...] = ()
    "Further (row, other row) to compare."


@dataclass
class SuiteTable:
    spec: TableSpec
    values: dict[str, dict[str, float]] = field(default_factory=dict)
    "Session -> row -> value."
    notes: dict[str, str] = field(default_factory=dict)
    "Session -> why it has no value."

    @property
    def rows(self) -> dict[str, dict[str, float | None]]:
        """Row -> session -> value, None where there is none or it is not finite; in the order of first appearance."""
        names = list(dict.fromkeys(row for values in self.values.values() for row in values))
        return {name: {session: finite(values.get(name)) for session, values in self.values.items()} for name in names}

    def to_json(self) -> dict[str, Any]:
        """The `tables` entry of metrics.json."""
        spec = self.spec
        return {
            "name": spec.name,
            "title": spec.title,
            "metric": spec.metric,
            "definition": spec.definition,
            "better": spec.better,
            "main": spec.main,
            "note": self.note,
            "rows": {name: {**mean_and_sem(sessions), "sessions": sessions} for name, sessions in self.rows.items()},
        }

    @property
    def note(self) -> str:
        """Which sessions have no value and why; empty if all have."""
        by_reason: dict[str, list[str]] = {}
        for session, reason in self.notes.items():
            by_reason.setdefault(reason, []).append(session)
        return "; ".join(f"left out: {', '.join(sessions)}: {reason}" for reason, sessions in by_reason.items())


def finite(value: float | None) -> float | None:
    """The value as a plain float, None for what is missing, NaN or infinite."""
    return float(value) if value is not None and math.isfinite(value) else None


def mean_and_sem(sessions: Mapping[str, float | None]) -> dict[str, float | None]:
    """Mean over the sessions with a value and the standard error of that mean (None for fewer than two)."""
    values = np.array([value for value in sessions.values() if value is not None], dtype=float)
    return {
        "mean": float(values.mean()) if len(values) else None,
        "sem": float(values.std(ddof=1) / math.sqrt(len(values))) if len(values) > 1 else None,
    }
