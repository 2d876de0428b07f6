"""Prediction files of task suite 2 of the IBL BrainWideBench (arXiv 2609.22064): their schema, checked and written.

Sources: brainbench-org/ibl-bwb at commit 3c8cee9 (published as ibl-bwb-eval 0.1.0), and the leaderboard's validator,
int-brain-lab/app-brain-wide-bench `app/validation/validate_submission.py` (codes E001 to E109), at commit 0fe50e0.

path       <label>/<task>/<recording_id>/seed_<N>.safetensors, task ts2-co_smoothing or ts2-forecasting
           (`ibl_bwb_eval/predictions.py` `PredictionsWriter._output_path`, `tasks/__init__.py` `task_id`; E004, E005,
           E013)
predictions   (windows, bins, units) log expected counts per bin of 20 ms, float16 (`ts2/ts2_test_mixin.py` `test`,
           `metrics/bps.py`; E007, E107: finite). Forecasting: the last 5 bins of a window of 1 s, all units
           (`ts2/ts2_dataset.py` FORECAST_RATIO, `tasks/ts2.py` FORECAST_BASE_WINDOW). Co-smoothing: all 50 bins
           (COSMOOTH_TARGET_WINDOW), the held-out units alone (`select_scored_entries`)
window_timestamps  (windows,) float64, start of the window in the recording, each once (E008) and exactly those of the
           ground truth (E012; `scoring/ts2.py` `score_file` aligns by equality)
unit_ids   (units, width) uint8, ASCII filled up with NUL (`entity_ids.py` `encode_entity_ids`); as a set those of the
           ground truth (E012). They are SESSION/UNIT (torch_brain `SpikingDatasetMixin`, uniquify_unit_ids)
metadata   label, task, seed, recording_id as in the path (E013); unit_filtering selected_units (E109); dataset_version
           x.y.z (E003); context_window, bin_size, ibl_bwb_eval_version as `PredictionsWriter` and `test` write them
A submission has one label (E106), every recording of the ground truth (E104), and for each the same three or more
seeds, in one run of numbers (E101 to E103). Files of other names are refused (E014).

Not certain: with a context longer than 1 s, ibl-bwb itself writes the start of the lengthened window
(`core/dataset.py` `VariableContextMixin`, `data.absolute_start`), which cannot equal a ground truth made of windows of
1 s. We always write the start of the window of 1 s. The ground truth is not public, so no file was compared with it.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from neurochorus.pretrain.evaluation.output_file import write_whole

Task = Literal["co_smoothing", "forecasting"]
BIN_S, WINDOW_BINS, FORECAST_BINS = 0.02, 50, 5
SCORED_BINS: dict[str, int] = {"co_smoothing": WINDOW_BINS, "forecasting": FORECAST_BINS}
UNIT_FILTERING = "selected_units"
FORMAT_VERSION = "0.1.0"
LEAST_SEEDS = 3
TENSORS = ("predictions", "window_timestamps", "unit_ids")
METADATA = ("label", "task", "seed", "recording_id", "unit_filtering", "dataset_version")


@dataclass(frozen=True)
class Predictions:
    """What a model predicts of one recording in one task."""

    log_rates_NHC: np.ndarray
    "Log expected counts per bin: windows, scored bins, scored units."
    window_starts_N: np.ndarray
    "Seconds, float64, exactly as the benchmark's sampler gives them."
    unit_ids: Sequence[str]
    "SESSION/UNIT of the scored units, in the order of the last axis."


def task_id(task: str) -> str:
    """Name of a task in paths. Raises ValueError for another task."""
    if task not in get_args(Task):
        raise ValueError(f"task {task!r}: expected one of {', '.join(get_args(Task))}")
    return f"ts2-{task}"


def prediction_path(root: Path, label: str, task: str, recording_id: str, seed: int) -> Path:
    """Where the benchmark looks for a file."""
    return root / label / task_id(task) / recording_id / f"seed_{seed}.safetensors"


def write_predictions(
    root: Path,
    predictions: Predictions,
    *,
    label: str,
    task: Task,
    recording_id: str,
    seed: int,
    dataset_version: str,
    context_s: float = 1.0,
) -> Path:
    """Write one prediction file below `root`; returns its path.

    Nothing is written where it could not be scored: raises ValueError with all that is wrong.
    """
    path = prediction_path(root, label, task, recording_id, seed)
    tensors = {
        "predictions": torch.from_numpy(np.ascontiguousarray(predictions.log_rates_NHC)).to(torch.float16),
        "window_timestamps": torch.from_numpy(np.asarray(predictions.window_starts_N, dtype=np.float64)),
        "unit_ids": encoded_ids(predictions.unit_ids),
    }
    metadata = {
        "label": label,
        "task": task_id(task),
        "seed": str(seed),
        "ibl_bwb_eval_version": FORMAT_VERSION,
        "recording_id": recording_id,
        "unit_filtering": UNIT_FILTERING,
        "dataset_version": dataset_version,
        "context_window": str(context_s),
        "bin_size": str(BIN_S),
    }
    problems = content_problems(path.relative_to(root).as_posix(), tensors, metadata)
    if problems:
        raise ValueError(f"{path}: not written: " + "; ".join(problems))
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, lambda file: file.write(save(tensors, metadata)))
    return path


def encoded_ids(ids: Iterable[str]) -> torch.Tensor:
    """Ids as rows of ASCII bytes filled up with NUL, (ids, width of the longest) uint8.

    >>> encoded_ids(["ab", "c"]).tolist()
    [[97, 98], [99, 0]]
    """
    rows = [text.encode("ascii", "strict") for text in ids]
    if not rows or not all(rows):
        raise ValueError("unit ids: expected at least one, and none empty")
    width = max(map(len, rows))
    return torch.tensor([list(row.ljust(width, b"\0")) for row in rows], dtype=torch.uint8)


def decoded_ids(rows: torch.Tensor) -> list[str]:
    """What `encoded_ids` was given."""
    return [bytes(row).rstrip(b"\0").decode("ascii") for row in rows.tolist()]


def content_problems(entry: str, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> list[str]:
    """What keeps one file from being scored, by the validator's rules; `entry`: its path from the label on."""
    parts = entry.split("/")
    found = [f"metadata: {key} is missing (E001)" for key in METADATA if key not in metadata]
    found += [f"{key} is missing (E007)" for key in TENSORS if key not in tensors]
    if found:
        return found
    if len(parts) != 4 or not re.fullmatch(r"seed_\d+\.safetensors", parts[3]):
        return [f"path {entry!r}: expected LABEL/TASK/RECORDING/seed_N.safetensors (E004, E013)"]
    if parts[1] not in {task_id(task) for task in get_args(Task)}:
        return [f"path {entry!r}: {parts[1]!r} is no task of this suite (E005)"]
    stated = [metadata["label"], metadata["task"], metadata["recording_id"], f"seed_{metadata['seed']}.safetensors"]
    if stated != parts:
        found.append(f"metadata {stated} is not what the path says, {parts} (E013)")
    if metadata["unit_filtering"] != UNIT_FILTERING:
        found.append(f"unit_filtering is {metadata['unit_filtering']!r}, this suite takes {UNIT_FILTERING!r} (E109)")
    if not re.fullmatch(r"\d+\.\d+\.\d+", metadata["dataset_version"]):
        found.append(f"dataset_version is {metadata['dataset_version']!r}, expected x.y.z (E003)")
    return found + _tensor_problems(parts[1].removeprefix("ts2-"), tensors)


def _tensor_problems(task: str, tensors: Mapping[str, torch.Tensor]) -> list[str]:
    predictions, starts, ids = (tensors[name] for name in TENSORS)
    shape = tuple(predictions.shape)
    if len(shape) != 3 or shape[1] != SCORED_BINS[task] or 0 in shape:
        expected = f"(windows, {SCORED_BINS[task]} bins, units)"
        return [f"predictions have shape {shape}, expected {expected} for {task} (E007)"]
    found = []
    if not predictions.is_floating_point() or not bool(predictions.isfinite().all()):
        found.append("predictions hold NaN, infinite or whole numbers; expected finite log rates (E107)")
    if tuple(starts.shape) != (shape[0],) or starts.dtype != torch.float64:
        found.append(
            f"window_timestamps are {starts.dtype} of shape {tuple(starts.shape)}, expected float64 of ({shape[0]},), "
            "as the windows are matched by equal numbers (E007, E012)"
        )
    elif len(starts.unique()) != len(starts):
        found.append("window_timestamps hold a start twice (E008)")
    if ids.ndim != 2 or ids.dtype != torch.uint8 or len(ids) != shape[2]:
        found.append(f"unit_ids are {ids.dtype} of shape {tuple(ids.shape)}, expected uint8 ({shape[2]}, width)")
    elif len(set(decoded_ids(ids))) != len(ids):
        found.append("unit_ids hold an id twice")
    return found


def submission_problems(root: Path, recordings: Iterable[str] = ()) -> list[str]:
    """What keeps the folder of one label from being scored; `recordings`: those that every task must hold."""
    found: list[str] = []
    seeds: dict[str, dict[str, set[int]]] = {}
    files = [file for file in sorted(root.rglob("*")) if file.is_file()]
    if not files:
        return [f"{root}: no seed_N.safetensors below it"]
    for file in files:
        entry = f"{root.name}/{file.relative_to(root).as_posix()}"
        try:
            with safe_open(file, framework="pt") as opened:
                tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
                metadata = opened.metadata() or {}
        except (SafetensorError, OSError):
            found.append(f"{entry}: not a prediction file (E014)")
            continue
        problems = content_problems(entry, tensors, metadata)
        found += [f"{entry}: {problem}" for problem in problems]
        if not problems:
            seeds.setdefault(metadata["task"], {}).setdefault(metadata["recording_id"], set()).add(
                int(metadata["seed"])
            )
    for task, by_recording in seeds.items():
        found += [f"{task}: recording {name} is missing (E104)" for name in recordings if name not in by_recording]
        found += [f"{task}: {problem}" for problem in _seed_problems(by_recording)]
    return found


def _seed_problems(by_recording: Mapping[str, set[int]]) -> list[str]:
    sets = {frozenset(seeds) for seeds in by_recording.values()}
    if len(sets) > 1:
        return [f"recordings have different seeds, {sorted(sorted(one) for one in sets)} (E103)"]
    (seeds,) = sets
    if len(seeds) < LEAST_SEEDS:
        return [f"{len(seeds)} seeds, expected {LEAST_SEEDS} or more (E101)"]
    if max(seeds) - min(seeds) >= len(seeds):
        return [f"seeds {sorted(seeds)} leave gaps (E102)"]
    return []
