"""metrics.jsonl of a training run, read back: one table of columns for each stage."""

import json
from pathlib import Path
from typing import Any

import numpy as np

HISTORY_FILE = "metrics.jsonl"
Columns = dict[str, np.ndarray]


def read_run_history(run_dir: Path) -> dict[str, Columns]:
    """Return {stage: {column: values by step}}, stages in order of appearance, NaN where a line lacks a column.

    A resumed run repeats the steps since its last checkpoint: the later line of a step counts. The last line may be
    cut short by a crash and is then left out. Raises ValueError naming file and line for any other line that is no
    object with stage and step, and for a file without lines; OSError when it cannot be read.
    """
    path = run_dir / HISTORY_FILE
    text = path.read_text(encoding="utf-8")
    lines = text.split("\n")
    stages: dict[str, dict[int, dict[str, Any]]] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
            stage, step = str(entry["stage"]), int(entry["step"])
        except (ValueError, TypeError, KeyError) as error:
            if number == len(lines):  # no newline after it: a crash cut it
                continue
            raise ValueError(f"{path}, line {number} is no line of a run ({error!r}): {line[:60]!r}") from error
        stages.setdefault(stage, {})[step] = entry
    if not stages:
        raise ValueError(f"{path} holds no lines: has the run made a step?")
    return {stage: _columns(entries) for stage, entries in stages.items()}


def _columns(entries: dict[int, dict[str, Any]]) -> Columns:
    ordered = [entries[step] for step in sorted(entries)]
    names = dict.fromkeys(
        name
        for entry in ordered
        for name, value in entry.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    )
    return {name: np.array([_value(entry.get(name)) for entry in ordered]) for name in names}


def _value(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else float("nan")
