"""A recipe says how recordings become a data set: which name in the files is which of ours.

It is the only thing that knows about one lab's files; there is no code for a particular data set.
"""

from dataclasses import field
from pathlib import Path
from string import Formatter
from typing import Literal

from neurochorus.data_shards.naming import IDENTIFIER
from neurochorus.data_shards.settings import read_settings, settings
from neurochorus.data_shards.splits import SplitRecipe

Axis = Literal["trial", "bin", "unit"]


@settings
class FromKey:
    key: str
    "Name of the array in the file."


@settings
class SignalRecipe:
    layout: Literal["trials", "continuous", "spike_times"]
    "trials: an array by trial, bin and unit. continuous: by bin and unit. spike_times: times in s and a unit index."
    key: str | None = None
    "The array, for trials and continuous."
    axes: list[Axis] | None = None
    "Order of the array's axes when it is not trial, bin, unit (or bin, unit)."
    bin_centers: str | None = None
    "Array (trials, bins) or (bins,) of absolute times in s, checked against bin_s; covariates `per: time` need it."
    times: str | None = None
    "For spike_times: array (spikes,) of times in s, sorted within each unit."
    unit_index: str | None = None
    "For spike_times: array (spikes,) of whole numbers from 0, the unit of each spike."
    start_s: float | FromKey | None = None
    "Where bin 0 starts; default: the first spike, rounded down to a whole number of bins."
    stop_s: float | FromKey | None = None
    "Where the last bin ends; default: the bin of the last spike."
    outside: Literal["refuse", "drop"] = "refuse"
    "What happens to spikes before start_s or from stop_s on; dropped ones are counted in the provenance."

    def problems(self) -> list[str]:
        by_times = self.layout == "spike_times"
        found = []
        for name, wanted in (("key", not by_times), ("times", by_times), ("unit_index", by_times)):
            if (getattr(self, name) is not None) != wanted:
                found.append(f"{name}: {'missing' if wanted else 'not used'} with the layout {self.layout}")
        for name in ("start_s", "stop_s"):
            if getattr(self, name) is not None and not by_times:
                found.append(f"{name}: not used with the layout {self.layout}")
        expected = {"trials": ["bin", "trial", "unit"], "continuous": ["bin", "unit"]}.get(self.layout, [])
        if self.axes is not None and sorted(self.axes) != expected:
            found.append(f"axes: {self.axes}; the layout {self.layout} has {', '.join(expected) or 'none'}")
        if by_times and self.bin_centers is not None:
            found.append("bin_centers: not used with the layout spike_times")
        return found


@settings
class UnitsRecipe:
    id: FromKey | None = None
    "Array (units,) of text or whole numbers; default: u0000, u0001, ... by position in the file."
    region: FromKey | str = ""
    "Array (units,) of text, or one region for all."
    columns: dict[str, FromKey] = field(default_factory=dict)
    "Further columns, name -> array (units,) of text or numbers."


@settings
class CovariateRecipe:
    key: str | list[str]
    "One array, or several that become columns side by side."
    per: Literal["trial", "bin", "time"]
    "trial: one value a trial. bin: one a bin. time: samples at times of their own, interpolated at the bin centres."
    time: str | None = None
    "For time: array (samples,) of times in s."
    missing: float | None = None
    "This value stands for missing; NaN always does."
    max_gap_s: float = 0.5
    "For time: a bin is missing when the samples around it are further apart than this."

    @property
    def keys(self) -> list[str]:
        return [self.key] if isinstance(self.key, str) else list(self.key)

    def problems(self) -> list[str]:
        found = []
        if (self.per == "time") != (self.time is not None):
            found.append("time: set it with per: time, and only with it")
        if not self.keys:
            found.append("key: names no array")
        if not self.max_gap_s > 0:
            found.append(f"max_gap_s: {self.max_gap_s}; expected a positive number of seconds")
        return found


@settings
class LorenzRecipe:
    """Defaults are those of LDNS (ldns/data/latent_attractor.py); see importers/lorenz.py."""

    step: float = 0.01505
    "Lorenz time from one bin to the next."
    burn_in_bins: int = 100
    normalise: Literal["trajectory", "system"] = "trajectory"
    "z-score each trajectory by itself (LDNS), or all by the attractor's own mean and sd: then dynamics are shared too."
    mean_rate: float | None = None
    "Mean spikes per bin; default: whatever LDNS's bias log(0.3) gives, about 0.14."

    def problems(self) -> list[str]:
        found = [] if self.step > 0 else [f"step: {self.step}; expected more than 0"]
        if self.burn_in_bins < 0:
            found.append(f"burn_in_bins: {self.burn_in_bins}; expected 0 or more")
        if self.mean_rate is not None and not 0 < self.mean_rate < 50:
            found.append(f"mean_rate: {self.mean_rate}; expected more than 0 and less than 50 spikes per bin")
        return found


@settings
class LinearGaussianRecipe:
    """See importers/linear_gaussian.py for the model."""

    decay: list[float] = field(default_factory=lambda: [0.98, 0.95])
    "One pair of latents a value: how much of it is left after a bin."
    period_bins: list[float] = field(default_factory=lambda: [60.0, 25.0])
    "Bins for one turn of each pair of latents."
    noise_sd: list[float] = field(default_factory=lambda: [0.5, 1.0])
    "Range of the units' observation noise."
    drive: int = 0
    "Width of a known input that moves the latents, written as the covariate `drive`; 0: none."
    drive_gain: float = 0.5

    def problems(self) -> list[str]:
        found = []
        if not self.decay or len(self.decay) != len(self.period_bins):
            found.append("decay, period_bins: expected one value for each pair of latents in both")
        if not all(0 <= value < 1 for value in self.decay):
            found.append(f"decay: {list(self.decay)}; expected values from 0 to below 1")
        if not all(value > 0 for value in self.period_bins):
            found.append(f"period_bins: {list(self.period_bins)}; expected positive numbers")
        if len(self.noise_sd) != 2 or not 0 < self.noise_sd[0] <= self.noise_sd[1]:
            found.append(f"noise_sd: {list(self.noise_sd)}; expected a lowest and a highest value above 0")
        if self.drive < 0:
            found.append(f"drive: {self.drive}; expected 0 or more")
        return found


@settings
class SyntheticRecipe:
    system: Literal["lorenz", "linear_gaussian"]
    "The latent system that all subjects share."
    subjects: list[str]
    sessions: int = 1
    "Sessions of each subject, named {subject}_s1, {subject}_s2, ..."
    units: list[int] = field(default_factory=lambda: [40, 70])
    "Fewest and most units of a session; how many is drawn at random."
    trials: int = 240
    trial_bins: int = 100
    seed: int = 0
    store_latents: bool = False
    "Write the true latents as a covariate `true_latent`."
    lorenz: LorenzRecipe = LorenzRecipe()
    linear_gaussian: LinearGaussianRecipe = LinearGaussianRecipe()

    def problems(self) -> list[str]:
        found = []
        if not self.subjects or len(set(self.subjects)) != len(self.subjects):
            found.append(f"subjects: {list(self.subjects)}; expected different names, at least one")
        found += [
            f"subjects: {name!r} is not made of letters, digits, _ and -"
            for name in self.subjects
            if not IDENTIFIER.fullmatch(name)
        ]
        if len(self.units) != 2 or not 1 <= self.units[0] <= self.units[1]:
            found.append(f"units: {list(self.units)}; expected the fewest and the most, at least 1")
        found += [
            f"{name}: {getattr(self, name)}; expected at least {least}"
            for name, least in (("sessions", 1), ("trials", 1), ("trial_bins", 2), ("seed", 0))
            if getattr(self, name) < least
        ]
        return found


@settings
class Recipe:
    name: str
    "Name of the data set."
    importer: Literal["npz", "synthetic"]
    bin_s: float | FromKey
    "Width of a bin in seconds."
    sample_bins: int
    "Longest sample: a longer trial or stretch is cut into samples of that many bins."
    split: SplitRecipe = SplitRecipe()
    licence: str = ""
    source_name: str = ""
    "Where the recordings come from: paper, archive, version."
    files: str = "*.npz"
    "npz: pattern of the files inside the source directory, one session each."
    session_id: str = "{stem}"
    "npz: template; {stem} is the file's name without .npz, any other {name} a scalar array in the file."
    subject_id: FromKey | str | None = None
    "npz: an array in the file, or a template as for session_id."
    modality: Literal["spikes", "continuous"] = "spikes"
    "npz: spike counts, or a continuous signal."
    signal: SignalRecipe | None = None
    units: UnitsRecipe = UnitsRecipe()
    covariates: dict[str, CovariateRecipe] = field(default_factory=dict)
    labels: dict[str, FromKey] = field(default_factory=dict)
    "npz: name -> array (trials,) of text or numbers, kept with every sample of the trial."
    synthetic: SyntheticRecipe | None = None

    def problems(self) -> list[str]:
        found = [] if IDENTIFIER.fullmatch(self.name) else [f"name: {self.name!r}; expected letters, digits, _ and -"]
        if not isinstance(self.bin_s, FromKey) and not self.bin_s > 0:
            found.append(f"bin_s: {self.bin_s}; expected a positive number of seconds")
        if self.sample_bins < 1:
            found.append(f"sample_bins: {self.sample_bins}; expected at least 1")
        found += [
            f"covariates: {name!r} is not made of letters, digits, _ and -"
            for name in self.covariates
            if not IDENTIFIER.fullmatch(name)
        ]
        return found + (self._npz_problems() if self.importer == "npz" else self._synthetic_problems())

    def _npz_problems(self) -> list[str]:
        found = [
            f"{name}: missing; the npz importer needs it"
            for name in ("signal", "subject_id")
            if getattr(self, name) is None
        ]
        if self.synthetic is not None:
            found.append("synthetic: not used by the npz importer")
        for name in ("session_id", "subject_id"):
            if isinstance(template := getattr(self, name), str):
                found += template_problems(name, template)
        if self.signal is None:
            return found
        by_trial = self.signal.layout == "trials"
        if by_trial == (self.split.method == "blocks"):
            wanted = "random or given" if by_trial else "blocks"
            found.append(f"split.method: {self.split.method}; the layout {self.signal.layout} takes {wanted}")
        for name, covariate in self.covariates.items():
            if covariate.per == "trial" and not by_trial:
                found.append(f"covariates.{name}.per: there are no trials with the layout {self.signal.layout}")
            if covariate.per == "time" and self.signal.layout != "spike_times" and self.signal.bin_centers is None:
                found.append(f"covariates.{name}.per: time needs signal.bin_centers")
        if self.labels and not by_trial:
            found.append(f"labels: there are no trials with the layout {self.signal.layout}")
        if self.signal.layout == "spike_times" and self.modality != "spikes":
            found.append("modality: spike times are spikes")
        return found

    def _synthetic_problems(self) -> list[str]:
        found = [] if self.synthetic is not None else ["synthetic: missing; the synthetic importer needs it"]
        found += [
            f"{name}: not used by the synthetic importer"
            for name in ("signal", "subject_id", "covariates", "labels")
            if getattr(self, name)
        ]
        if isinstance(self.bin_s, FromKey):
            found.append("bin_s: a synthetic recording has no file to read it from: give a number")
        if self.split.method != "random":
            found.append(f"split.method: {self.split.method}; synthetic trials are split at random")
        return found


def template_fields(template: str) -> list[str]:
    """Return the names in braces of an id template."""
    return [name for _, name, _, _ in Formatter().parse(template) if name is not None]


def template_problems(name: str, template: str) -> list[str]:
    try:
        fields = template_fields(template)
    except ValueError as error:
        return [f"{name}: {template!r} is not a template ({error})"]
    # attribute and item access in a template would reach into the objects behind the names
    return [f"{name}: {field!r} in {template!r} is not a plain name" for field in fields if not field.isidentifier()]


def read_recipe(path: str | Path, overrides: list[str] | None = None) -> Recipe:
    """Read a recipe from YAML, with `section.key=value` overrides; SettingsError lists every problem."""
    return read_settings(Recipe, path, overrides or [])
