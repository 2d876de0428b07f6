"""Settings of a covariate: stimulus or behaviour beside the signal."""

from typing import Literal

from neurochorus.data_shards.recipe_keys import FromKey
from neurochorus.data_shards.recording import SPLITS
from neurochorus.data_shards.settings import settings


@settings
class CovariateRecipe:
    key: str | list[str] | None = None
    "One array, or several that become columns side by side."
    split_keys: dict[str, str] | None = None
    "Beside signal.split_keys, instead of key: train, valid, test -> the array of that split; missing where none is."
    per: Literal["trial", "bin", "time", "event"]
    """trial: one value a trial. bin: one a bin. time: samples at times of their own, interpolated at the bin centres.
    event: times in s, counted in bins."""
    time: str | None = None
    "For time: array (samples,) of times in s."
    rate: float | FromKey | None = None
    "For time, instead of an array of times: samples per second."
    start_s: float | FromKey | None = None
    "With rate: the time of the first sample in s; default 0."
    missing: float | None = None
    "This value stands for missing; NaN always does."
    max_gap_s: float = 0.5
    "For time: a bin is missing when the samples around it are further apart than this."
    implausible: Literal["refuse", "drop"] = "refuse"
    "For time: what happens to samples whose times are not finite, go back, or are a week off the others."
    scale: float = 1.0
    "Values are multiplied by this ..."
    offset: float = 0.0
    "... and then this is added."

    @property
    def keys(self) -> list[str]:
        return [self.key] if isinstance(self.key, str) else list(self.key or [])

    def problems(self) -> list[str]:
        found = self._timing_problems()
        if self.split_keys is not None:
            odd = sorted(set(self.split_keys) - set(SPLITS))
            if odd or not self.split_keys or self.key is not None or self.per not in ("trial", "bin"):
                found.append("split_keys: expected train, valid or test, per trial or bin, and no key beside it")
        elif not self.keys:
            found.append("key: names no array")
        if not self.max_gap_s > 0:
            found.append(f"max_gap_s: {self.max_gap_s}; expected a positive number of seconds")
        return found

    def _timing_problems(self) -> list[str]:
        found = []
        if self.per != "time":
            for name, default in (("time", None), ("rate", None), ("start_s", None), ("implausible", "refuse")):
                if getattr(self, name) != default:
                    found.append(f"{name}: set it with per: time, and only with it")
        elif self.time is not None and self.rate is not None:
            found.append("rate: not used with time")
        if self.start_s is not None and self.rate is None:
            found.append("start_s: not used without rate")
        if isinstance(self.rate, float) and not self.rate > 0:
            found.append(f"rate: {self.rate}; expected a positive number of samples per second")
        if self.per == "event" and (self.missing is not None or self.scale != 1.0 or self.offset != 0.0):
            found.append("missing, scale, offset: events are counted; they have no values")
        return found
