"""The files of launch/finetune.py --compare: written, and transfer.json read back and checked."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from neurochorus.pretrain.evaluation.json_fields import as_list, as_number, as_numbers, as_object, need
from neurochorus.pretrain.evaluation.output_file import write_whole
from neurochorus.pretrain.evaluation.paired_comparisons import PairedComparison, read_comparisons
from neurochorus.pretrain.evaluation.picture_style import png_bytes
from neurochorus.pretrain.evaluation.transfer_picture import transfer_picture

Scores = dict[str, dict[str, np.ndarray]]
"Fraction text -> session -> value of each seed; NaN where undefined."


@dataclass(frozen=True)
class Transfer:
    path: Path
    metric: str
    definition: str
    fractions: dict[str, float]
    "Text of a fraction -> the fraction, ascending."
    seeds: list[int]
    arms: dict[str, Scores]
    baselines: dict[str, Scores]
    trials: dict[str, dict[str, int]]
    "Fraction text -> session -> trials it was adapted on."
    comparisons: list[PairedComparison]

    @property
    def sessions(self) -> list[str]:
        return list(
            dict.fromkeys(
                session
                for scores in (*self.arms.values(), *self.baselines.values())
                for values in scores.values()
                for session in values
            )
        )


def write_transfer(folder: Path, name: str, results: Mapping[str, Any], text: str) -> None:
    """Write NAME.json and NAME.png of the results, and NAME.md."""
    for ending, content in (
        ("json", (json.dumps(results, indent=1, allow_nan=False) + "\n").encode()),
        ("md", text.encode()),
        ("png", png_bytes(transfer_picture(results))),
    ):
        write_whole(folder / f"{name}.{ending}", lambda file, content=content: file.write(content))


def read_transfer(path: Path) -> Transfer:
    """Raises ValueError naming file and key for what is missing or no number; OSError when it cannot be read."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON ({error}): make it with launch/finetune.py --compare") from error
    content = as_object(path, "the file", content)
    arms = _all_scores(path, "arms", need(path, content, "arms", dict))
    baselines = _all_scores(path, "baselines", content.get("baselines") or {})
    texts = {text for scores in (*arms.values(), *baselines.values()) for text in scores}
    fractions = {text: _fraction(path, text) for text in texts}
    trials = {
        text: {
            session: int(as_number(path, f"trials.{text}.{session}", count))
            for session, count in as_object(path, f"trials.{text}", counts).items()
            if count is not None
        }
        for text, counts in as_object(path, "trials", content.get("trials") or {}).items()
    }
    return Transfer(
        path=path,
        metric=need(path, content, "metric", str),
        definition=str(content.get("definition", "")),
        fractions=dict(sorted(fractions.items(), key=lambda one: one[1])),
        seeds=[int(as_number(path, "seeds", seed)) for seed in as_list(path, "seeds", content.get("seeds") or [])],
        arms=arms,
        baselines=baselines,
        trials=trials,
        comparisons=read_comparisons(path, content.get("comparisons") or []),
    )


def _all_scores(path: Path, name: str, content: Any) -> dict[str, Scores]:
    return {
        row: {
            text: {
                session: np.atleast_1d(as_numbers(path, f"{name}.{row}.{text}.{session}", values))
                for session, values in as_object(path, f"{name}.{row}.{text}", sessions).items()
            }
            for text, sessions in as_object(path, f"{name}.{row}", fractions).items()
        }
        for row, fractions in as_object(path, name, content).items()
    }


def _fraction(path: Path, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"{path}: a fraction is called {text!r}, expected a number such as 0.1") from None
