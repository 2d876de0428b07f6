"""Settings of the evaluation suite: `launch/evaluate.py --suite NAME ... --suite-set SETTING=VALUE ...`."""

from dataclasses import field
from typing import Literal

from neurochorus.data_shards.settings import at_least, settings

SUITES = ("horizons", "co_smoothing", "psth", "decoding", "statistics")


@settings
class SuiteSettings:
    seed: int = 0
    "Which units are held out, which trials decoders are trained on, and the draws of the bootstrap."
    held_out_share: float = 0.25
    "Share of a session's units that co-smoothing predicts from the others."
    few_shot_trials: int | None = None
    "Windows of the train split that the few-shot form and its baselines learn held-out units from; null: all."
    leads_bins: list[int] | None = None
    "Leads of the table of horizons; null: 1, 2, 5, 10, 20, 50, ... and the whole horizon."
    psth_smoothing_s: float = 0.04
    "sd of the Gaussian that smooths true PSTHs, s (NLB: 0.07 for mc_maze, 0.04 for area2_bump)."
    condition_labels: list[str] | None = None
    "Labels of trials whose combinations are the conditions of PSTH R2; null: all with at most 8 values."
    condition_trials: int = 5
    "Fewest trials, of all splits, of a condition."
    covariates: list[str] | None = None
    "Covariates to decode; null: all of a session."
    column_average: Literal["uniform", "variance"] = "uniform"
    "How R2 is averaged over the columns of a covariate: alike (NLB), or by their variance (FALCON)."
    labels: list[str] | None = None
    "Labels of trials to decode; null: all with 2 to 8 values."
    decoding_windows: int = 600
    "Most windows of the train split that decoders are trained on."
    synthetic_trials: list[int] = field(default_factory=lambda: [10, 30, 100])
    "Numbers of real training trials to which synthetic ones are added."
    synthetic_samples: int = 4
    "Synthetic trials for each real one."
    generated_splits: int = 8
    "Random halvings of the held-out trials behind the generated statistics."

    def problems(self) -> list[str]:
        found = at_least(
            self, 1, "decoding_windows", "synthetic_samples", "generated_splits", "condition_trials"
        ) + at_least(self, 0, "psth_smoothing_s", "seed")
        if self.few_shot_trials is not None:
            found += at_least(self, 2, "few_shot_trials")
        if not 0 < self.held_out_share < 1:
            found.append(f"held_out_share: {self.held_out_share}; expected a share above 0 and below 1")
        for name in ("leads_bins", "synthetic_trials"):
            if any(number < 1 for number in getattr(self, name) or []):
                found.append(f"{name}: {getattr(self, name)}; expected numbers of 1 or more")
        return found
