"""Stimulus and behaviour in an unknown file: arrays with times of their own, or one value a trial or bin."""

import re

import numpy as np

from neurochorus.data_shards.suggesting.arrays import Arrays, Seen
from neurochorus.data_shards.suggesting.document import Section
from neurochorus.data_shards.suggesting.signals import TIME, SignalGuess

AXIS = re.compile(r"(.+?)_?[xyz]")
MOST = 8


def guess_covariates(arrays: Arrays, guess: SignalGuess, taken: set[str]) -> Section:
    """Return the section `covariates`; `taken` are keys that are something else."""
    section = Section()
    if guess.layout == "trials":
        _by_trial_or_bin(arrays, guess, section)
    else:
        _by_time(arrays, guess, section, taken)
    return section


def _by_trial_or_bin(arrays: Arrays, guess: SignalGuess, section: Section) -> None:
    for seen in arrays.of("if"):
        if seen.key in guess.used or guess.given_splits or seen.shape[:1] != (guess.trials,) or len(seen.shape) > 3:
            continue
        if seen.shape[1:2] == (guess.bins,):
            section.add(_name(seen.leaf), {"key": seen.key, "per": "bin"}, "one value for each bin of each trial")
        elif len(seen.shape) == 1 and seen.rows != guess.units:
            reason = "if it is known before the trial: a model may then forecast from it"
            section.other(_name(seen.leaf), {"key": seen.key, "per": "trial"}, reason)


def _by_time(arrays: Arrays, guess: SignalGuess, section: Section, taken: set[str]) -> None:
    used = guess.used | taken
    series = [seen for seen in arrays.of("if") if seen.key not in used and arrays.source.timing(seen.key) is not None]
    for seen in series[:MOST]:
        values = {"key": seen.key, "per": "time"}
        if seen.kind == "f" and len(seen.shape) <= 2 and not seen.key.startswith("stimulus/template"):
            section.add(_name(seen.leaf), values, "a series with times of its own" + _note(seen))
        else:
            section.other(_name(seen.leaf), values, "a series of codes? interpolating them means nothing" + _note(seen))
    spoken_for = used | {seen.key for seen in series}
    for times in [seen for seen in arrays.of("f", 1) if TIME.search(seen.leaf) and seen.key not in spoken_for]:
        values = arrays.values(times)
        if times.rows < 20 or not np.all(np.diff(values) >= 0) or _of_series(times, series):
            continue
        _beside(arrays, section, times, spoken_for)


def _beside(arrays: Arrays, section: Section, times: Seen, spoken_for: set[str]) -> None:
    """Add the arrays that are as long as an array of times, those of a common name as one covariate."""
    columns: dict[str, list[Seen]] = {}
    for seen in arrays.of("if"):
        if seen.shape[:1] == times.shape and len(seen.shape) <= 2 and seen is not times and seen.key not in spoken_for:
            match = AXIS.fullmatch(seen.leaf)
            columns.setdefault(match.group(1) if match is not None else seen.leaf, []).append(seen)
    for name, members in columns.items():
        name = name if len(members) > 1 else members[0].leaf  # an index is no x of something
        keys = [seen.key for seen in members]
        zero = max(float((arrays.values(seen) == 0).mean()) for seen in members)
        why = [f"as many values as {times.key} has times"]
        if 0.001 < zero < 0.9:
            why.append(f"{100 * zero:.1f} % are exactly 0: if 0 stands for missing, add missing: 0")
        key = keys[0] if len(keys) == 1 else keys
        section.add(_name(name), {"key": key, "per": "time", "time": times.key}, *why)


def _of_series(times: Seen, series: list[Seen]) -> bool:
    return any(times.key.startswith(f"{seen.key}/") for seen in series)


def _note(seen: Seen) -> str:
    return f" ({seen.note[:60]})" if seen.note else ""


def _name(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9_-]+", "_", text).strip("_") or "covariate"
