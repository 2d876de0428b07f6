"""What of a session can be decoded: covariates bin by bin, and labels of whole trials.

N windows, T bins, K columns.
"""

from collections import Counter
from dataclasses import dataclass

import numpy as np

from neurochorus.pretrain.evaluation.suite.decoders import Average, CovariateDecoder, Fitted, LabelDecoder
from neurochorus.pretrain.evaluation.suite.session_data import SessionData
from neurochorus.pretrain.evaluation.suite.settings import SuiteSettings
from neurochorus.pretrain.evaluation.suite.tables import Undefined

MOST_LABELS = 8
FEWEST_TRIALS = 4


@dataclass(frozen=True)
class Target:
    """One thing to decode. `values`: split -> (N, T, K) of a covariate, or (N,) of a label as text."""

    name: str
    kind: str
    "`covariate` or `label`."
    values: dict[str, np.ndarray]

    average: Average = "uniform"
    "How R2 is averaged over the columns of a covariate."

    def fit(self, features_NTF: np.ndarray, values: np.ndarray, groups_N: np.ndarray) -> Fitted:
        """A decoder of it; raises Undefined where these trials cannot teach one."""
        if self.kind == "covariate":
            return CovariateDecoder.fit(features_NTF, values, groups_N, self.average)
        return LabelDecoder.fit(features_NTF, values, groups_N)

    @property
    def metric(self) -> str:
        if self.kind == "label":
            return "balanced_accuracy"
        return "r2" if self.average == "uniform" else "r2_variance_weighted"

    @property
    def title(self) -> str:
        return f"decoding of {'' if self.kind == 'covariate' else 'the label '}{self.name}"

    @property
    def table(self) -> str:
        return self.name if self.kind == "covariate" else f"label_{self.name}"

    def of(self, split: str, bins: slice = slice(None)) -> np.ndarray:
        values = self.values[split]
        return values[:, bins] if self.kind == "covariate" else values


def decoding_targets(data: SessionData, settings: SuiteSettings) -> tuple[list[Target], dict[str, str]]:
    """Everything that is asked for and defined, and the name -> reason of what is not."""
    targets: list[Target] = []
    reasons: dict[str, str] = {}
    known = data.corpus.session(data.session_id).covariates
    for name in known if settings.covariates is None else settings.covariates:
        try:
            targets.append(covariate_target(data, name, settings.column_average))
        except Undefined as error:
            reasons[name] = str(error)
    labels = sorted({name for trial in data.trials("train") for name in trial.labels})
    for name in labels if settings.labels is None else settings.labels:
        try:
            targets.append(_label(data, name))
        except Undefined as error:
            reasons[f"label_{name}"] = str(error)
    return targets, reasons


def covariate_target(data: SessionData, name: str, average: Average) -> Target:
    if name not in data.corpus.session(data.session_id).covariates:
        raise Undefined(f"it has no covariate {name!r}")
    values = {split: data.windows(split).covariates[name] for split in ("train", data.split)}
    for split, value in values.items():
        if not np.isfinite(value).any():
            raise Undefined(f"the covariate is known in no bin of the {split} split")
        if not (np.nanstd(value.reshape(-1, value.shape[-1]), axis=0) > 0).any():
            raise Undefined(f"the covariate never varies in the {split} split")
    return Target(name, "covariate", values, average)


def _label(data: SessionData, name: str) -> Target:
    """Labels that fewer than FEWEST_TRIALS training trials have are left out: they become empty text."""
    text = {split: [str(trial.labels.get(name, "")) for trial in data.trials(split)] for split in ("train", data.split)}
    of_trials = set(zip(text["train"], data.groups("train").tolist(), strict=True))  # a trial may have many windows
    sizes = Counter(label for label, _ in of_trials if label)
    kept = {label for label, trials in sizes.items() if trials >= FEWEST_TRIALS}
    if len(sizes) > MOST_LABELS:
        raise Undefined(f"the label has more than {MOST_LABELS} values: it is no category")
    if len(kept) < 2:
        raise Undefined(f"fewer than two labels with {FEWEST_TRIALS} training trials each")
    values = {split: np.array([label if label in kept else "" for label in labels]) for split, labels in text.items()}
    return Target(name, "label", values)
