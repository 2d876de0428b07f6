"""Settings of the synthetic recordings: which latent system, how many animals, units and trials."""

from dataclasses import field
from typing import Literal

from neurochorus.data_shards.naming import IDENTIFIER
from neurochorus.data_shards.settings import settings


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
