"""Claims that one row of a table beats another, with the paired bootstrap behind them, read back from JSON."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from neurochorus.pretrain.evaluation.json_fields import as_list, as_number, as_object, need


@dataclass(frozen=True)
class PairedComparison:
    """`better_row` minus `than_row`, paired over sessions, with its 95 % interval; NaN where undefined."""

    table: str
    better_row: str
    than_row: str
    difference: float
    low: float
    high: float
    p: float
    sessions: int
    wins: int
    "Sessions in which `better_row` is the better one."
    fraction: str = ""
    "Of the target's data, where comparisons are made for several."
    subjects: int | None = None
    "Animals, where sessions of several are pooled, and in how many of them `better_row` is the better one in the mean."
    subjects_won: int | None = None


def read_comparisons(path: Path, content: Any) -> list[PairedComparison]:
    """Raises ValueError naming file and key for what is missing or no number."""
    found = []
    for place, one in enumerate(as_list(path, "comparisons", content)):
        where = f"comparisons[{place}]"
        one = as_object(path, where, one)
        figures = {key: as_number(path, f"{where}.{key}", one.get(key)) for key in ("difference", "low", "high", "p")}
        fraction, pooled = one.get("fraction"), one.get("subjects") is not None
        found.append(
            PairedComparison(
                table=str(one.get("table", "")),
                better_row=need(path, one, "better_row", str, where),
                than_row=need(path, one, "than_row", str, where),
                **figures,
                sessions=need(path, one, "sessions", int, where),
                wins=need(path, one, "wins", int, where),
                fraction="" if fraction is None else str(fraction),
                subjects=need(path, one, "subjects", int, where) if pooled else None,
                subjects_won=need(path, one, "subjects_won", int, where) if pooled else None,
            )
        )
    return found
