"""Where the signal of an unknown file lies, and how it is laid out."""

import re
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from neurochorus.data_shards.suggesting.arrays import Arrays, Seen
from neurochorus.data_shards.suggesting.document import Section

SPIKE = re.compile(r"spike|spk|^st$")
TIME = re.compile(r"time|^ts$|^t$|stamp")
UNIT = re.compile(r"unit|clust|clu$|neuron|cell|^id|index|count|num|^n_")
SIGNAL = re.compile(r"spike|spk|count|signal|data|dff|df_f|^f$|rate|lfp|traces|neural|x$")
SPLIT = re.compile(r"(train|valid|val|eval|test)[_/](.+)")
SPLIT_NAMES = {"train": "train", "valid": "valid", "val": "valid", "eval": "valid", "test": "test"}
NEURAL = re.compile(r"spikes?|recon|encod|counts|neural|heldin|held_in|heldout|held_out")
BIN_WIDTH = re.compile(r"bin_?(s|size|width|w|len|length)(_?m?s)?|dt|delta_?t|time_?step")
RATE = re.compile(r"fs|sf|s?freq|rate|sampl(e|ing)_?(rate|freq(uency)?)|frame_?rate|fps|hz")
DEFAULT_BIN_S = 0.02


@dataclass
class SignalGuess:
    """`used` are keys that are spoken for; `span_s` is how long it is, and `sample_times` the key of its times, where
    known."""

    section: Section
    modality: str
    layout: str
    units: int | None
    why: str
    bin_s: Any = DEFAULT_BIN_S
    bin_why: str = "a choice: 0.02 s suits most spike trains"
    trials: int | None = None
    bins: int | None = None
    span_s: float | None = None
    sample_times: str | None = None
    used: set[str] = field(default_factory=set)
    given_splits: bool = False


def guess_signal(arrays: Arrays) -> SignalGuess:
    """Return the best guess. ValueError when no array can be a signal, with what there is."""
    for guess in (_ragged, _joined, _split_arrays, _by_trial, _in_one_stretch):
        found = guess(arrays)
        if found is not None:
            return found
    listed = "\n".join(f"  - {seen.described()}" for seen in arrays.all[:40])
    raise ValueError(
        f"{arrays.source.path}: no array looks like a signal: expected spike times with the unit of each, a ragged "
        f"column, or an array by (trial,) bin and unit\n{listed}"
    )


def _ragged(arrays: Arrays) -> SignalGuess | None:
    """A ragged column of times, one row a unit."""
    found = [seen for seen in arrays.of("r") if SPIKE.search(seen.leaf) or len(arrays.of("r")) == 1]
    found = [seen for seen in found if "interval" not in seen.leaf and "index" not in seen.leaf]
    if not found:
        return None
    seen = found[0]
    section = Section()
    section.add("layout", "spike_times")
    section.add("times", seen.key, f"a ragged column with a row for each of {seen.rows} units")
    guess = SignalGuess(section, "spikes", "spike_times", seen.rows, "a ragged column of times", used={seen.key})
    _about_times(guess, arrays, seen)
    return guess


def _joined(arrays: Arrays) -> SignalGuess | None:
    """Times of all units in one array, beside the unit of each spike or the number of each unit's."""
    best: tuple[int, Seen, Seen, str] | None = None
    others = []
    for times in [seen for seen in arrays.of("if", 1) if seen.rows >= 10]:
        for other in arrays.of("i", 1):
            how = _companion(arrays, times, other)
            if how is None or other is times:
                continue
            score = 4 * bool(SPIKE.search(times.key.lower())) + 2 * bool(TIME.search(times.leaf))
            score += 3 * bool(UNIT.search(other.leaf)) + 3 * (how == "unit_counts")
            if score >= 5:
                others.append((score, times, other, how))
                best = max(best or others[-1], others[-1], key=lambda item: item[0])
    if best is None:
        return None
    _, times, other, how = best
    section = Section()
    section.add("layout", "spike_times")
    section.add("times", times.key, f"{times.rows} times, by name and because {other.key} fits it")
    if how == "unit_index":
        units = int(arrays.values(other).max()) + 1
        reason = f"as many whole numbers as there are times, from 0 to {units - 1}"
    else:
        units, reason = other.rows, f"{other.rows} whole numbers that add up to {times.rows}: the spikes of each unit"
    section.add(how, other.key, reason)
    for _, one, another, name in others:
        if (one, another) != (times, other) and one is times:
            section.other(name, another.key, "fits too")
    guess = SignalGuess(section, "spikes", "spike_times", units, "spike times", used={times.key, other.key})
    _about_times(guess, arrays, times)
    return guess


def _companion(arrays: Arrays, times: Seen, other: Seen) -> str | None:
    """Tell how an array of whole numbers could say which unit each of the times belongs to."""
    if other.rows == 0 or other.rows > times.rows or (other.rows < times.rows and other.rows > 100_000):
        return None
    values = arrays.values(other)
    if not len(values) or values.min() < 0:
        return None
    if other.rows == times.rows:
        return "unit_index" if values.max() < max(len(values) / 2, 2) and TIME.search(other.leaf) is None else None
    return "unit_counts" if int(values.sum(dtype=np.int64)) == times.rows else None


def _about_times(guess: SignalGuess, arrays: Arrays, seen: Seen) -> None:
    """Add what the times themselves say: their unit, where they start, and whether some cannot be meant."""
    values = arrays.values(seen)
    scale = _time_scale(guess, arrays, seen, values)
    times = values.astype(np.float64) * scale
    finite = times[np.isfinite(times)]
    if not len(finite):
        return
    middle = float(np.median(finite))
    sane = finite[np.abs(finite - middle) < 7 * 24 * 3600]
    if len(sane) < len(times):
        guess.section.add(
            "implausible", "drop", f"{len(times) - len(sane)} times are not finite or days off the others"
        )
    low, high = float(sane.min()), float(sane.max())
    guess.span_s = high - low
    if low < 0:
        start = float(np.floor(low))
        guess.section.add("start_s", start, f"the first spike is at {low:.6g} s, the last at {high:.6g} s")
    else:
        guess.section.comment(
            f"the first spike is at {low:.6g} s, the last at {high:.6g} s; set where it starts and ends"
        )
        guess.section.other("start_s", 0.0, "if the recording starts before its first spike; likewise stop_s")


def _time_scale(guess: SignalGuess, arrays: Arrays, seen: Seen, values: np.ndarray) -> float:
    """Seconds in a unit of the times: whole numbers are samples, and days of spikes are milliseconds."""
    rates = [scalar for scalar in arrays.scalars if scalar.kind in "if" and RATE.fullmatch(scalar.leaf)]
    seconds = [scalar for scalar in arrays.scalars if scalar.leaf == "seconds_per_sample"]
    if seconds:
        guess.section.add("time_scale", {"key": seconds[0].key}, "the times are numbers of samples")
        return float(arrays.scalar(seconds[0]))
    if values.dtype.kind in "iu":
        rate = float(arrays.scalar(rates[0])) if rates else 30_000.0
        source = (
            f"{rates[0].key} is {rate:g}" if rates else "CHECK: no sampling rate was found, 30000 per second is usual"
        )
        guess.section.add("time_scale", 1 / rate, f"the times are whole numbers, so samples; {source}")
        return 1 / rate
    top = float(np.nanmax(np.abs(values))) if len(values) else 0.0
    if 200_000 < top < 1e8 and np.all(np.mod(values[:10_000] * 1e3, 1) < 1e-6):
        guess.section.other("time_scale", 0.001, "if these are milliseconds: times of hours are unusual")
    return 1.0


def _split_arrays(arrays: Arrays) -> SignalGuess | None:
    """An array (trial, bin, unit) for each split, as LFADS and the Neural Latents Benchmark have them."""
    by_split: dict[str, list[Seen]] = {}
    for seen in arrays.of("if", 3):
        match = SPLIT.fullmatch(seen.key)
        if match is not None and NEURAL.search(match.group(2)) and "behavior" not in seen.leaf:
            by_split.setdefault(SPLIT_NAMES[match.group(1)], []).append(seen)
    if "train" not in by_split:
        return None
    recon = {split: [seen for seen in found if "recon" in seen.leaf] for split, found in by_split.items()}
    chosen = recon if all(recon.values()) else by_split
    widths = {split: sum(seen.shape[2] for seen in found) for split, found in chosen.items()}
    chosen = {split: found for split, found in chosen.items() if widths[split] == widths["train"]}
    section = Section()
    section.add("layout", "trials")
    keys = {split: found[0].key if len(found) == 1 else [seen.key for seen in found] for split, found in chosen.items()}
    section.add("split_keys", keys, "arrays (trial, bin, unit) whose names say which split they are")
    named = {seen.key for found in chosen.values() for seen in found}
    for seen in [seen for found in by_split.values() for seen in found if seen.key not in named]:
        section.comment(f"not used: {seen.described()}")
    first = chosen["train"][0]
    whole = all(_is_counts(arrays, seen) for found in chosen.values() for seen in found)
    used = {seen.key for found in by_split.values() for seen in found}
    guess = SignalGuess(section, "spikes" if whole else "continuous", "trials", widths["train"], "an array a split")
    guess.used, guess.given_splits = used, True
    guess.trials, guess.bins = first.rows, first.shape[1]
    _about_bins(guess, arrays, None)
    return guess


def _by_trial(arrays: Arrays) -> SignalGuess | None:
    """An array by trial, bin and unit."""
    found = [seen for seen in arrays.of("ifb", 3) if min(seen.shape) > 0]
    found = [seen for seen in found if arrays.source.timing(seen.key) is None and not seen.key.startswith("stimulus")]
    if not found:
        return None
    seen = max(found, key=lambda seen: (bool(SIGNAL.search(seen.leaf)), seen.kind == "i", int(np.prod(seen.shape))))
    axes, why = _axes(arrays, seen)
    section = Section()
    section.add("layout", "trials")
    section.add("key", seen.key, f"the array of shape {seen.shape}; {why}")
    if axes != ["trial", "bin", "unit"]:
        section.add("axes", axes)
    else:
        section.other("axes", ["unit", "trial", "bin"], "if they are others")
    for other in found:
        if other is not seen:
            section.comment(f"another candidate: key: {other.key}, of shape {other.shape}")
    trials, bins, units = (seen.shape[axes.index(axis)] for axis in ("trial", "bin", "unit"))
    modality = "spikes" if _is_counts(arrays, seen) else "continuous"
    guess = SignalGuess(section, modality, "trials", units, "an array by trial, bin and unit", used={seen.key})
    guess.trials, guess.bins = trials, bins
    _about_bins(guess, arrays, (trials, bins))
    return guess


def _axes(arrays: Arrays, seen: Seen) -> tuple[list[str], str]:
    """Guess which axis is which, from the lengths of other arrays; by default trial, bin, unit."""
    texts = {other.rows for other in arrays.of("U", 1)}
    plain = [other.rows for other in arrays.of("if", 1) if other is not seen]
    unit = next((axis for axis in (2, 0, 1) if seen.shape[axis] in texts and seen.shape[axis] > 1), None)
    rest = [axis for axis in range(3) if axis != (2 if unit is None else unit)]
    trial = max(rest, key=lambda axis: (plain.count(seen.shape[axis]), -axis))
    names = ["unit", "unit", "unit"]
    names[trial] = "trial"
    names[next(axis for axis in rest if axis != trial)] = "bin"
    if unit is None and not plain.count(seen.shape[trial]):
        return names, "CHECK: the axes are taken to be trial, bin, unit"
    return names, f"{names[0]}, {names[1]}, {names[2]}, because other arrays are as long as those axes"


def _about_bins(guess: SignalGuess, arrays: Arrays, shape: tuple[int, int] | None) -> None:
    """Find the width of a bin: a scalar with such a name, or time stamps of the bins."""
    for seen in arrays.of("f"):
        if shape is not None and seen.shape in (shape, shape[1:]) and seen.key not in guess.used:
            steps = np.diff(arrays.values(seen), axis=-1)
            if steps.size and steps.min() > 0 and np.ptp(steps) < 0.01 * float(np.median(steps)):
                if seen.shape == shape:  # one axis for all trials gives the width of bins, and not when they were
                    guess.section.add("bin_centers", seen.key, f"rising times of shape {seen.shape}, evenly apart")
                guess.bin_s, guess.used = float(f"{np.median(steps):.9g}"), guess.used | {seen.key}
                guess.bin_why = f"the step of {seen.key}"
                break
    else:
        guess.bin_s, guess.bin_why = 0.01, "CHECK: nothing in the file says how wide a bin is; set it in s"
    for scalar in arrays.scalars:
        if scalar.kind in "if" and BIN_WIDTH.fullmatch(scalar.leaf):
            value = float(arrays.scalar(scalar))
            milliseconds = scalar.leaf.endswith("ms") or value >= 1
            guess.bin_s = value / 1000 if milliseconds else {"key": scalar.key}
            guess.bin_why = f"{scalar.key} is {value:g}" + (", taken as ms" if milliseconds else " s")
            guess.used.add(scalar.key)


def _in_one_stretch(arrays: Arrays) -> SignalGuess | None:
    """An array by bin (or sample) and unit."""
    found = [seen for seen in arrays.of("if", 2) if max(seen.shape) >= 50 and min(seen.shape) > 0]
    found = [seen for seen in found if not seen.key.startswith(("stimulus", "general", "intervals"))]
    if not found:
        return None
    seen = max(found, key=lambda seen: (bool(SIGNAL.search(seen.leaf)), min(seen.shape) > 3, int(np.prod(seen.shape))))
    texts = {other.rows for other in arrays.of("U", 1)}
    timing = arrays.source.timing(seen.key)
    turned = timing is None and (seen.shape[0] < seen.shape[1] if seen.shape[1] not in texts else False)
    bins, units = seen.shape[::-1] if turned else seen.shape
    section = Section()
    section.add("layout", "continuous")
    section.add("key", seen.key, f"the array of shape {seen.shape}; the {'second' if turned else 'first'} axis is time")
    if turned:
        section.add("axes", ["unit", "bin"])
    for other in found:
        if other is not seen:
            section.comment(f"another candidate: key: {other.key}, of shape {other.shape}")
    modality = "spikes" if timing is None and seen.kind == "i" and _is_counts(arrays, seen) else "continuous"
    guess = SignalGuess(section, modality, "continuous", units, "an array by bin and unit", bins=bins, used={seen.key})
    _about_samples(guess, arrays, bins, None if timing is None else timing.rate, timing is not None)
    return guess


def _about_samples(guess: SignalGuess, arrays: Arrays, bins: int, rate: float | None, self_timed: bool) -> None:
    """Find when samples were taken: a series says it itself; else an array of times, a rate, or a bin width."""
    times = [
        seen
        for seen in arrays.of("f", 1)
        if seen.rows == bins and TIME.search(seen.leaf) and np.all(np.diff(arrays.values(seen)) > 0)
    ]
    rates = [scalar for scalar in arrays.scalars if scalar.kind in "if" and RATE.fullmatch(scalar.leaf)]
    if self_timed:
        why = "the series has its own times"
        step = 1 / rate if rate else float(np.median(np.diff(arrays.values(times[0])))) if times else 0.01
    elif times:
        step, why = float(np.median(np.diff(arrays.values(times[0])))), f"the step of {times[0].key}"
        guess.section.add("sampling", {"times": times[0].key}, "as many rising times as there are samples")
        guess.used.add(times[0].key)
        guess.sample_times = times[0].key
    elif rates:
        step, why = 1 / float(arrays.scalar(rates[0])), f"{rates[0].key}"
        guess.section.add("sampling", {"rate": {"key": rates[0].key}}, "a scalar with the name of a rate, per second")
    else:
        _about_bins(guess, arrays, None)
        return
    guess.bin_s = float(f"{max(step, 0.01):.9g}")
    guess.bin_why = f"samples are {step:.6g} s apart ({why})" + ("; they are averaged in bins" if step < 0.01 else "")
    guess.bins = max(int(bins * step / guess.bin_s), 1)


def _is_counts(arrays: Arrays, seen: Seen) -> bool:
    values = arrays.values(seen)
    if seen.kind == "b":
        return True
    if seen.kind == "i":
        return bool(values.size) and int(values.min()) >= 0 and int(values.max()) <= 65535
    return bool(values.size) and bool(np.isfinite(values).all() and (values >= 0).all() and (values % 1 == 0).all())
