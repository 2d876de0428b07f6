"""Clocks of a recording's source: times that step backwards, and gaps, in the arrays that a recipe reads as times."""

import numpy as np

from neurochorus.data_shards.importers.source import Source
from neurochorus.data_shards.recipe import Recipe

GAP_STEPS = 20
"Median steps from which the distance of two samples is named as a gap, if it is a second at least."


def clock_suspicions(source: Source, recipe: Recipe) -> list[str]:
    """Return a sentence for each array of times that is not a steady clock. Arrays that cannot be read are left out:
    importing says what is wrong with them."""
    found = []
    for key, steady in time_keys(source, recipe).items():
        if not source.has(key):
            continue
        try:
            times = source.array(key)
        except ValueError:
            continue
        if times.dtype.kind in "iuf" and times.size > 1:
            found += _odd_steps(key, times.reshape(len(times), -1)[:, 0].astype(np.float64), steady)
    return found


def time_keys(source: Source, recipe: Recipe) -> dict[str, bool]:
    """Return the keys of arrays of times, and whether their samples should be evenly apart."""
    keys: dict[str, bool] = {}
    signal = recipe.signal
    if signal is not None and signal.bin_centers is not None:
        keys[signal.bin_centers] = False
    if signal is not None and signal.sampling is not None and signal.sampling.times is not None:
        keys[signal.sampling.times] = True
    for covariate in recipe.covariates.values():
        times = covariate.time if covariate.per == "time" else None
        timing = source.timing(covariate.keys[0]) if covariate.keys and covariate.per == "time" else None
        if times is None and timing is not None:
            times = timing.times
        if times is not None:
            keys[times] = True
    if recipe.trials is not None:
        table = recipe.trials.table or source.tables.get("trials")
        for name in (recipe.trials.start, recipe.trials.align):
            if name is not None:
                keys[source.column(table, name)] = False
    return keys


def _odd_steps(key: str, times: np.ndarray, steady: bool) -> list[str]:
    times = times[np.isfinite(times)]
    steps = np.diff(times)
    if not len(steps):
        return []
    found = []
    back = np.flatnonzero(steps < 0)
    if len(back):
        at = int(back[0])
        found.append(
            f"{key!r} steps backwards {len(back)} times, first from {times[at]:.6g} to {times[at + 1]:.6g} s: "
            "are these pieces of several recordings, or unsorted?"
        )
    wide = np.flatnonzero(steps > max(GAP_STEPS * float(np.median(steps)), 1.0)) if steady else np.empty(0, int)
    if len(wide):
        at = int(wide[np.argmax(steps[wide])])
        found.append(
            f"{key!r} has {len(wide)} gaps, the longest of {steps[at]:.1f} s at {times[at]:.6g} s: "
            "was the clock stopped or set?"
        )
    return found
