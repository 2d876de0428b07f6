"""Claims that one row of a table beats another, with the paired bootstrap behind them, read back from JSON."""

from collections.abc import Sequence
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


def read_comparisons(path: Path, content: Any) -> list[PairedComparison]:
    """Raises ValueError naming file and key for what is missing or no number."""
    found = []
    for place, one in enumerate(as_list(path, "comparisons", content)):
        where = f"comparisons[{place}]"
        one = as_object(path, where, one)
        names: Sequence[str] = [need(path, one, key, str, where) for key in ("better_row", "than_row")]
        figures = [as_number(path, f"{where}.{key}", one.get(key)) for key in ("difference", "low", "high", "p")]
        counts = [need(path, one, key, int, where) for key in ("sessions", "wins")]
        fraction = one.get("fraction")
        found.append(
            PairedComparison(str(one.get("table", "")), *names, *figures, *counts,
                             fraction="" if fraction is None else str(fraction))
        )  # fmt: skip
    return found
