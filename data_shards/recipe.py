"""A recipe says how recordings become a data set: which name in the files is which of ours.

It is the only thing that knows about one lab's files; there is no code for a particular data set.
"""

import re
from dataclasses import field
from pathlib import Path
from string import Formatter
from typing import Literal

from neurochorus.data_shards.naming import IDENTIFIER
from neurochorus.data_shards.recipe_covariates import CovariateRecipe
from neurochorus.data_shards.recipe_keys import FromKey
from neurochorus.data_shards.recipe_signal import SignalRecipe
from neurochorus.data_shards.recipe_synthetic import SyntheticRecipe
from neurochorus.data_shards.recipe_trials import ObservedRecipe, TrialsRecipe
from neurochorus.data_shards.recipe_units import UnitsRecipe
from neurochorus.data_shards.settings import read_settings, settings
from neurochorus.data_shards.splits import SplitRecipe

FILE_PATTERNS = {
    "npz": "*.npz",
    "npy": "*",
    "hdf5": "*.h5",
    "mat": "*.mat",
    "csv": "*",
    "nwb": "*.nwb",
    "phy": "*",
    "suite2p": "*",
}
FIELD = re.compile(r"[A-Za-z_][A-Za-z0-9_/@-]*")  # a template may name paths in a file, but never attributes or items


@settings
class Recipe:
    name: str
    "Name of the data set."
    importer: Literal["npz", "npy", "hdf5", "mat", "csv", "nwb", "phy", "suite2p", "synthetic"]
    "What reads the files; `launch/shard.py --suggest FILE` names the one that fits. `synthetic` simulates them."
    bin_s: float | FromKey
    "Width of a bin in seconds."
    sample_bins: int
    "Longest sample: a longer trial or stretch is cut into samples of that many bins."
    split: SplitRecipe = SplitRecipe()
    licence: str = ""
    "Under which the recordings may be used; kept with the provenance of each session."
    source_name: str = ""
    "Where the recordings come from: paper, archive, version."
    files: str | None = None
    """Pattern of the files inside the source directory, or of folders for npy, csv, phy and suite2p, one session each;
    `.` is the source directory itself. Default: all that end as the importer's files do."""
    stem_pattern: str | None = None
    "Regular expression that matches each file's stem; its named groups, (?P<name>...), can stand in templates."
    session_id: FromKey | str = "{stem}"
    "An array in the file, or a template: {stem} is the file's name without its ending, any other {name} a scalar."
    subject_id: FromKey | str | None = None
    "As session_id."
    modality: Literal["spikes", "continuous"] = "spikes"
    "Spike counts, or a continuous signal."
    signal: SignalRecipe | None = None
    units: UnitsRecipe = UnitsRecipe()
    trials: TrialsRecipe | None = None
    "For the layouts continuous and spike_times: cuts the recording into trials."
    observed: ObservedRecipe | None = None
    "For the layouts continuous and spike_times: the stretches in which something was recorded."
    covariates: dict[str, CovariateRecipe] = field(default_factory=dict)
    labels: dict[str, FromKey] = field(default_factory=dict)
    "Name -> array (trials,) of text or numbers, kept with every sample of the trial."
    facts: dict[str, FromKey] = field(default_factory=dict)
    "Name -> scalar of text or a number, kept with the session's provenance: age, strain, date."
    synthetic: SyntheticRecipe | None = None

    @property
    def pattern(self) -> str:
        """The pattern of session files or folders."""
        return self.files if self.files is not None else FILE_PATTERNS[self.importer]

    @property
    def has_trials(self) -> bool:
        return self.trials is not None or (self.signal is not None and self.signal.layout == "trials")

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
        if self.importer == "synthetic":
            return found + self._synthetic_problems()
        return found + self._name_problems() + self._file_problems()

    def _name_problems(self) -> list[str]:
        found = []
        for name, template in (
            ("session_id", self.session_id),
            ("subject_id", self.subject_id),
            ("units.region", self.units.region),
        ):
            if isinstance(template, str):
                found += template_problems(name, template)
        if self.stem_pattern is not None:
            try:
                re.compile(self.stem_pattern)
            except re.error as error:
                found.append(f"stem_pattern: {self.stem_pattern!r} is no regular expression ({error})")
        return found

    def _file_problems(self) -> list[str]:
        found = [
            f"{name}: missing; the {self.importer} importer needs it"
            for name in ("signal", "subject_id")
            if getattr(self, name) is None
        ]
        if self.synthetic is not None:
            found.append(f"synthetic: not used by the {self.importer} importer")
        if self.signal is None:
            return found
        return [*found, *self._split_problems(self.signal), *self._signal_problems(self.signal)]

    def _split_problems(self, signal: SignalRecipe) -> list[str]:
        found = []
        kind = f"the layout {signal.layout}" + (" cut into trials" if self.trials is not None else "")
        if self.has_trials == (self.split.method == "blocks"):
            wanted = "random or given" if self.has_trials else "blocks"
            found.append(f"split.method: {self.split.method}; {kind} takes {wanted}")
        if signal.split_keys is not None and (self.split.method != "given" or self.split.key is not None):
            found.append("split.method: signal.split_keys says which split is which: set given, without a key")
        if signal.split_keys is None and self.split.method == "given" and self.split.key is None:
            found.append("split.key: set it with the method given, or use signal.split_keys")
        return found

    def _signal_problems(self, signal: SignalRecipe) -> list[str]:
        found = []
        if signal.layout == "trials":
            found += [
                f"{name}: not used with the layout trials"
                for name in ("trials", "observed")
                if getattr(self, name) is not None
            ]
        if not self._has_times(signal):
            found += [
                f"{name}: bins have no times without signal.bin_centers or signal.sampling"
                for name, given in (
                    ("trials", self.trials),
                    ("observed", self.observed),
                    ("units.observed", self.units.observed),
                )
                if given is not None and signal.layout == "continuous"
            ]
        if self.labels and not self.has_trials:
            found.append(f"labels: there are no trials with the layout {signal.layout}")
        if signal.layout == "spike_times" and self.modality != "spikes":
            found.append("modality: spike times are spikes")
        # an NWB series brings its own times, so that there are samples without a sampling section
        if signal.reduce is not None and signal.sampling is None and self.importer != "nwb":
            found.append("signal.reduce: there is nothing to reduce without sampling")
        if self.modality == "spikes" and signal.reduce == "mean":
            found.append("signal.reduce: a mean of spike counts is no count: set sum")
        if self.modality != "spikes" and self.units.min_rate is not None:
            found.append("units.min_rate: only spikes have a rate")
        if signal.layout == "trials" and self.units.observed is not None:
            found.append("units.observed: not used with the layout trials")
        return found + self._covariate_problems(signal)

    def _covariate_problems(self, signal: SignalRecipe) -> list[str]:
        found = []
        for name, covariate in self.covariates.items():
            if covariate.per == "trial" and not self.has_trials:
                found.append(f"covariates.{name}.per: there are no trials with the layout {signal.layout}")
            if covariate.per in ("time", "event") and not self._has_times(signal):
                found.append(f"covariates.{name}.per: {covariate.per} needs signal.bin_centers or signal.sampling")
            if covariate.per == "time" and covariate.time is None and covariate.rate is None and self.importer != "nwb":
                found.append(f"covariates.{name}.time: set it with per: time, or rate")
            if covariate.split_keys is not None and signal.split_keys is None:
                found.append(f"covariates.{name}.split_keys: used only beside signal.split_keys")
        return found

    def _has_times(self, signal: SignalRecipe) -> bool:
        """Tell whether the time of each bin is known, or may be: an NWB series brings its own."""
        if signal.layout == "spike_times" or signal.bin_centers is not None or signal.sampling is not None:
            return True
        return signal.layout == "continuous" and self.importer == "nwb"

    def _synthetic_problems(self) -> list[str]:
        found = [] if self.synthetic is not None else ["synthetic: missing; the synthetic importer needs it"]
        found += [
            f"{name}: not used by the synthetic importer"
            for name in ("signal", "subject_id", "trials", "observed", "covariates", "labels", "facts")
            if getattr(self, name)
        ]
        if isinstance(self.bin_s, FromKey):
            found.append("bin_s: a synthetic recording has no file to read it from: give a number")
        if self.split.method != "random":
            found.append(f"split.method: {self.split.method}; synthetic trials are split at random")
        return found


def template_fields(template: str) -> list[str]:
    """Return the names in braces of a template."""
    return [name for _, name, _, _ in Formatter().parse(template) if name is not None]


def template_problems(name: str, template: str) -> list[str]:
    try:
        fields = template_fields(template)
    except ValueError as error:
        return [f"{name}: {template!r} is not a template ({error})"]
    # attribute and item access in a template would reach into the objects behind the names
    return [f"{name}: {field!r} in {template!r} is not a plain name" for field in fields if not FIELD.fullmatch(field)]


def read_recipe(path: str | Path, overrides: list[str] | None = None) -> Recipe:
    """Read a recipe from YAML, with `section.key=value` overrides; SettingsError lists every problem."""
    return read_settings(Recipe, path, overrides or [])
