"""Submission files of the Neural Latents Benchmark '21 (Pei et al. 2021): their schema, checked and written.

Source: neurallatents/nlb_tools at commit 1ddc15f. An HDF5 file with a group for each data set, named as the data set
in bins of 5 ms and with `_20` behind it in bins of 20 ms (`make_tensors.py`, `make_eval_target_tensors`: `suf`;
`evaluation.py`, `evaluate`: `zip([5, 20], ["", "_20"])`). In a group are arrays (trials, bins, units) of rates:
expected counts per bin, never negative (`evaluation.py`, `neg_log_likelihood`).

field                                      read by `evaluation.evaluate` for
train_rates_heldin, train_rates_heldout    "vel R2" (not for dmfc_rsg)
eval_rates_heldin                          "vel R2", "psth R2", "tp corr"
eval_rates_heldout                         "co-bps"; a group without it is skipped in silence
eval_rates_heldin_forward, *_heldout_forward   "fp-bps", optional: the 200 ms (`PARAMS[...]["fp_len"]`) after the window

Bins: the aligned window of `PARAMS[...]["make_params"]["align_range"]` over the bin width. Trials and units: the table
"tensor shapes for all submission tensors" in the appendix of `examples/tutorials/basic_example.ipynb`, by phase: val
(train and val split of the training data) or test (all training data, test split). The same notebook asks for the three
scaling sets in one file. float32 with gzip, as `make_tensors.save_to_h5` writes.
"""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import h5py
import numpy as np

Phase = Literal["val", "test"]
FORWARD_MS = 200
SCALING = ("mc_maze_large", "mc_maze_medium", "mc_maze_small")
FORWARD = ("eval_rates_heldin_forward", "eval_rates_heldout_forward")


@dataclass(frozen=True)
class Published:
    """What the benchmark fixes for one data set."""

    window_ms: int
    held_in: int
    held_out: int
    trials: Mapping[str, tuple[int, int]]
    "Phase -> train trials, eval trials."

    def shapes(self, bin_ms: int, phase: Phase) -> dict[str, tuple[int, int, int]]:
        """Shape of every field; those of FORWARD may be left out together."""
        train, evaluated = self.trials[phase]
        bins, ahead = self.window_ms // bin_ms, FORWARD_MS // bin_ms
        return {
            "train_rates_heldin": (train, bins, self.held_in),
            "train_rates_heldout": (train, bins, self.held_out),
            "eval_rates_heldin": (evaluated, bins, self.held_in),
            "eval_rates_heldout": (evaluated, bins, self.held_out),
            "eval_rates_heldin_forward": (evaluated, ahead, self.held_in),
            "eval_rates_heldout_forward": (evaluated, ahead, self.held_out),
        }


DATA_SETS = {
    "mc_maze": Published(700, 137, 45, {"val": (1721, 574), "test": (2295, 574)}),
    "mc_rtt": Published(600, 98, 32, {"val": (810, 270), "test": (1080, 272)}),
    "area2_bump": Published(600, 49, 16, {"val": (272, 92), "test": (364, 98)}),
    "dmfc_rsg": Published(1500, 45, 15, {"val": (741, 248), "test": (989, 252)}),
    "mc_maze_large": Published(700, 122, 40, {"val": (375, 125), "test": (500, 100)}),
    "mc_maze_medium": Published(700, 114, 38, {"val": (188, 62), "test": (250, 100)}),
    "mc_maze_small": Published(700, 107, 35, {"val": (75, 25), "test": (100, 100)}),
}


def group_name(data_set: str, bin_ms: int) -> str:
    """Name of a data set's group. Raises ValueError for other data sets and bin widths than those of the benchmark."""
    if data_set not in DATA_SETS or bin_ms not in (5, 20):
        raise ValueError(
            f"data set {data_set!r} in bins of {bin_ms} ms: the benchmark takes {', '.join(DATA_SETS)} in bins of 5 or "
            "20 ms"
        )
    return data_set if bin_ms == 5 else f"{data_set}_20"


def group_problems(name: str, fields: Mapping[str, np.ndarray], phase: Phase | None = None) -> list[str]:
    """What keeps one group from being scored; empty if nothing does. Without `phase` either one will do."""
    data_set, bin_ms = (name.removesuffix("_20"), 20) if name.endswith("_20") else (name, 5)
    if data_set not in DATA_SETS:
        return [f"{name}: no data set of the benchmark; expected {', '.join(DATA_SETS)}, with _20 for bins of 20 ms"]
    published = DATA_SETS[data_set]
    phases: list[Phase] = ["val", "test"] if phase is None else [phase]
    expected = {each: published.shapes(bin_ms, each) for each in phases}
    optional = () if set(FORWARD) & set(fields) else FORWARD
    found = [f"{name}: {key} is missing" for key in expected[phases[0]] if key not in fields and key not in optional]
    found += [f"{name}: {key} is not a field of the benchmark" for key in fields if key not in expected[phases[0]]]
    known = {key: np.shape(fields[key]) for key in fields if key in expected[phases[0]]}
    # the phase that most fields fit is the one that was meant
    meant = max(phases, key=lambda each: sum(shape == expected[each][key] for key, shape in known.items()))
    for key, shape in known.items():
        if shape != expected[meant][key]:
            found.append(f"{name}: {key} has shape {shape}, expected {expected[meant][key]} in phase {meant}")
        found += [f"{name}: {key} {problem}" for problem in _value_problems(np.asarray(fields[key]))]
    return found


def file_problems(path: Path, phase: Phase | None = None) -> list[str]:
    """What keeps a submission file from being scored; raises ValueError for what is no HDF5 file."""
    groups, found = read_submission(path), []
    for name, fields in groups.items():
        found += group_problems(name, fields, phase)
    if not groups:
        found.append("no group of a data set")
    return [f"{path}: {problem}" for problem in found]


def missing_scaling_sets(path: Path) -> list[str]:
    """Groups that must join those of a file before it is sent in: the three scaling sets are scored together."""
    names = list(read_submission(path))
    return [
        f"{data_set}{suffix}"
        for suffix in ("", "_20")
        if any(f"{one}{suffix}" in names for one in SCALING)
        for data_set in SCALING
        if f"{data_set}{suffix}" not in names
    ]


def read_submission(path: Path) -> dict[str, dict[str, np.ndarray]]:
    """Group -> field -> array. Raises ValueError for what is no HDF5 file of groups of arrays."""
    try:
        with h5py.File(path, "r") as file:
            return {name: {key: group[key][()] for key in group} for name, group in file.items()}
    except (OSError, AttributeError, TypeError, KeyError) as error:
        raise ValueError(f"{path}: not an HDF5 file with a group of arrays for each data set ({error})") from None


def write_submission(
    path: Path, name: str, fields: Mapping[str, np.ndarray], phase: Phase | None = None
) -> dict[str, tuple[int, ...]]:
    """Put one group into a submission file, beside those that are there; returns the shapes written.

    Nothing is written where the group could not be scored. Raises ValueError with all that is wrong, or for a file
    that is there and is none of HDF5.
    """
    problems = group_problems(name, fields, phase)
    if problems:
        raise ValueError(f"{path}: not written: " + "; ".join(problems))
    partial = path.with_name(f".{path.name}.partial")
    try:
        if path.exists():
            read_submission(path)
            shutil.copyfile(path, partial)
        with h5py.File(partial, "a") as file:
            if name in file:
                del file[name]
            for key, rates in fields.items():
                file.create_dataset(f"{name}/{key}", data=np.asarray(rates, dtype=np.float32), compression="gzip")
        problems = file_problems(partial, None)
        if problems:
            raise ValueError("; ".join(problems))
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return {key: np.shape(rates) for key, rates in fields.items()}


def _value_problems(rates: np.ndarray) -> list[str]:
    if rates.dtype.kind not in "fiu":
        return [f"is of type {rates.dtype}, expected numbers"]
    found = []
    if not np.isfinite(rates).all():
        found.append(f"holds {int((~np.isfinite(rates)).sum())} NaN or infinite rates")
    if (rates < 0).any():
        found.append(f"holds negative rates (least: {np.nanmin(rates):g}); expected counts per bin")
    return found
