"""Settings of a recording's signal: where it lies in the file, and how it comes into bins."""

from typing import Literal

from neurochorus.data_shards.recipe_keys import FromKey
from neurochorus.data_shards.recording import SPLITS
from neurochorus.data_shards.settings import settings

Axis = Literal["trial", "bin", "unit"]
AXES: dict[str, list[Axis]] = {"trials": ["trial", "bin", "unit"], "continuous": ["bin", "unit"]}
SPIKE_KEYS = ("times", "unit_index", "unit_counts", "time_scale", "start_s", "stop_s")


@settings
class SamplingRecipe:
    """When the samples of a continuous signal were taken: evenly at a rate, or at times of their own."""

    rate: float | FromKey | None = None
    "Samples per second."
    start_s: float | FromKey = 0.0
    "With rate: the time of the first sample in s."
    times: str | None = None
    "Array (samples,) of rising times in s."
    max_gap_s: float | None = None
    "With times: samples further apart than this end a segment; default: one and a half of the median step."

    def problems(self) -> list[str]:
        found = []
        if (self.rate is None) == (self.times is None):
            found.append("rate, times: set one of them, and not both")
        if isinstance(self.rate, float) and not self.rate > 0:
            found.append(f"rate: {self.rate}; expected a positive number of samples per second")
        if self.times is not None and self.start_s != 0.0:
            found.append("start_s: not used with times")
        if self.max_gap_s is not None and (self.times is None or not self.max_gap_s > 0):
            found.append(f"max_gap_s: {self.max_gap_s}; expected a positive number of seconds, and only with times")
        return found


@settings
class SignalRecipe:
    layout: Literal["trials", "continuous", "spike_times"]
    "trials: an array by trial, bin and unit. continuous: by bin (or sample) and unit. spike_times: times of spikes."
    key: str | None = None
    "The array, for trials and continuous."
    split_keys: dict[str, str | list[str]] | None = None
    "For trials, instead of key: train, valid, test -> the array of that split, or several with more units each."
    axes: list[Axis] | None = None
    "Order of the array's axes when it is not trial, bin, unit (or bin, unit)."
    bin_centers: str | None = None
    "Array (trials, bins) or (bins,) of absolute times in s, checked against bin_s; covariates `per: time` need it."
    sampling: SamplingRecipe | None = None
    "For a continuous signal whose samples come faster than bin_s: they are reduced into bins."
    reduce: Literal["mean", "sum", "last"] | None = None
    "With sampling: what a bin keeps of its samples; default: sum for spikes, mean for a continuous signal."
    times: str | None = None
    "For spike_times: array (spikes,) of times, sorted within each unit, or a ragged column with a row for each unit."
    unit_index: str | None = None
    "For spike_times: array (spikes,) of whole numbers from 0, the unit of each spike."
    unit_counts: str | None = None
    "For spike_times, instead of unit_index: array (units,) of spikes of each unit, the times joined unit by unit."
    time_scale: float | FromKey | None = None
    "For spike_times: seconds in one unit of the times (1 / sampling rate for sample numbers); default 1."
    start_s: float | FromKey | None = None
    "Where bin 0 starts; default: the first spike, rounded down to a whole number of bins."
    stop_s: float | FromKey | None = None
    "Where the last bin ends; default: the bin of the last spike."
    outside: Literal["refuse", "drop"] = "refuse"
    "What happens to spikes before start_s or from stop_s on; dropped ones are counted in the provenance."
    implausible: Literal["refuse", "drop"] = "refuse"
    "What happens to spike times that cannot be meant: not finite, negative without start_s, or a week off the others."

    def problems(self) -> list[str]:
        return [*self._missing(), *self._unused(), *self._wrong_axes(), *self._wrong_splits()]

    def _missing(self) -> list[str]:
        by_times = self.layout == "spike_times"
        found = []
        if (self.times is not None) != by_times:
            found.append(f"times: {'missing' if by_times else 'not used'} with the layout {self.layout}")
        wanted = not by_times and self.split_keys is None
        if (self.key is not None) != wanted:
            reason = "split_keys" if self.split_keys is not None else f"the layout {self.layout}"
            found.append(f"key: {'missing' if wanted else 'not used'} with {reason}")
        return found

    def _unused(self) -> list[str]:
        by_times = self.layout == "spike_times"
        unused = [] if by_times else [name for name in SPIKE_KEYS[1:] if getattr(self, name) is not None]
        if not by_times and self.implausible != "refuse":
            unused.append("implausible")
        if by_times and self.bin_centers is not None:
            unused.append("bin_centers")
        if self.layout != "continuous" and self.sampling is not None:
            unused.append("sampling")
        found = [f"{name}: not used with the layout {self.layout}" for name in unused]
        if self.unit_index is not None and self.unit_counts is not None:
            found.append("unit_counts: not used with unit_index")
        if isinstance(self.time_scale, float) and not self.time_scale > 0:
            found.append(f"time_scale: {self.time_scale}; expected a positive number of seconds")
        if self.reduce is not None and self.sampling is None:
            found.append("reduce: there is nothing to reduce without sampling")
        if self.sampling is not None and self.bin_centers is not None:
            found.append("bin_centers: not used with sampling")
        return found

    def _wrong_axes(self) -> list[str]:
        expected = sorted(AXES.get(self.layout, []))
        if self.axes is None or sorted(self.axes) == expected:
            return []
        return [f"axes: {self.axes}; the layout {self.layout} has {', '.join(expected) or 'none'}"]

    def _wrong_splits(self) -> list[str]:
        if self.split_keys is None:
            return []
        found = [] if self.layout == "trials" else [f"split_keys: not used with the layout {self.layout}"]
        odd = sorted(set(self.split_keys) - set(SPLITS))
        if odd or "train" not in self.split_keys:
            found.append(f"split_keys: {sorted(self.split_keys)}; expected train, and valid and test if there are any")
        if self.bin_centers is not None:
            found.append("bin_centers: not used with split_keys")
        return found + [f"split_keys.{split}: names no array" for split, keys in self.split_keys.items() if not keys]
