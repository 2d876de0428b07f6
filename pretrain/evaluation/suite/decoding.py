"""Decoding from latents against decoding from counts, for recorded and for generated activity.

N windows, T bins, H horizon bins, F features, S samples.
"""

from collections.abc import Callable, Mapping

import numpy as np

from neurochorus.models import NeuralModel
from neurochorus.pretrain.evaluation.metrics import r2
from neurochorus.pretrain.evaluation.suite.decoders import Fitted
from neurochorus.pretrain.evaluation.suite.decoding_targets import Target, decoding_targets
from neurochorus.pretrain.evaluation.suite.session_data import SessionData
from neurochorus.pretrain.evaluation.suite.settings import SuiteSettings
from neurochorus.pretrain.evaluation.suite.smoothing import exponential_smoothing
from neurochorus.pretrain.evaluation.suite.synthetic import GeneratedFeatures, generated_rows, synthetic_rows
from neurochorus.pretrain.evaluation.suite.tables import TableSpec, Undefined

DECAYS_BINS = (2.0, 5.0, 15.0, 40.0, 100.0)
Features = Callable[[str], np.ndarray]
"Split -> (N, T, F)."

_AVERAGES = {"uniform": "averaged", "variance": "averaged by variance"}
NESTED = (
    "Penalty (and smoothing) by cross-validation over trials within the train split, scored on the {split} split: no "
    "bin of a trial is in both"
)


def decoding(
    data: SessionData, models: Mapping[str, NeuralModel], settings: SuiteSettings
) -> tuple[dict[TableSpec, dict[str, float]], dict[str, str]]:
    """Tables of one session, and table -> reason for what is not defined; raises Undefined when nothing is."""
    targets, reasons = decoding_targets(data, settings)
    made: dict[TableSpec, dict[str, float]] = {}
    skipped = {f"decoding_{name}": reason for name, reason in reasons.items()}
    first = next(iter(models.values()))
    chosen = chosen_windows(data, settings)
    generated: GeneratedFeatures | None = None
    for target in targets:
        try:
            made[_spec(data, target)] = _rows(data, models, target, chosen)
            if data.forecast.horizon_bins and first.config.autoencoder.causal:
                if generated is None:
                    generated = GeneratedFeatures(data, first, chosen, settings)
                made |= generated_rows(generated, target) | synthetic_rows(generated, target)
        except Undefined as error:
            skipped[f"decoding_{target.table}"] = str(error)
    if not made:
        why = "; ".join(f"{name}: {reason}" for name, reason in reasons.items())
        raise Undefined(why or next(iter(skipped.values()), "it has no covariates and no labels of trials"))
    return made, skipped


def chosen_windows(data: SessionData, settings: SuiteSettings) -> np.ndarray:
    """Windows of the train split that decoders learn from, in an order drawn once."""
    order = np.random.default_rng(settings.seed).permutation(len(data.windows("train").keys))
    return order[: settings.decoding_windows]


def _rows(data: SessionData, models: Mapping[str, NeuralModel], target: Target, chosen: np.ndarray) -> dict[str, float]:
    """Scores from latents, rates, raw and smoothed counts (or signals)."""
    first = next(iter(models.values()))
    rows = {
        "latents" if model is first else f"latents, {row}": latents_score(data, model, target, chosen)
        for row, model in models.items()
    }
    rows["rates"] = _best_score(data, target, [lambda split: data.rates(first, split)], chosen)
    rows |= signal_scores(data, target, chosen, first.config.autoencoder.causal)
    if target.kind == "label":
        return {**rows, "chance": 1 / len(set(target.of("train").tolist()) - {""})}
    return {**rows, "train mean": train_mean_score(data, target, chosen)}


def latents_score(data: SessionData, model: NeuralModel, target: Target, chosen: np.ndarray) -> float:
    """Score of a decoder that reads a model's latents, fitted on the chosen windows of the train split."""
    return _best_score(data, target, [lambda split: data.latents(model, split)], chosen)


def signal_scores(data: SessionData, target: Target, chosen: np.ndarray, causal: bool) -> dict[str, float]:
    """Scores of decoders that read raw and smoothed counts (or signals); smoothed over earlier bins alone if causal."""
    name = "counts" if data.spikes else "signal"

    def smoothed(decay: float) -> Features:
        return lambda split: exponential_smoothing(data.windows(split).signal_NTC, decay, causal)

    sources = {f"raw {name}": [smoothed(0.0)], f"smoothed {name}": [smoothed(decay) for decay in DECAYS_BINS]}
    return {row: _best_score(data, target, candidates, chosen) for row, candidates in sources.items()}


def train_mean_score(data: SessionData, target: Target, chosen: np.ndarray) -> float:
    """R2 of the train mean: 0 if the mean has not moved until the evaluated trials."""
    truth = target.of(data.split).reshape(-1, target.of(data.split).shape[-1]).astype(float)
    truth = np.where(np.isfinite(truth).all(axis=1, keepdims=True), truth, np.nan)
    mean_K = np.nanmean(target.of("train")[chosen].astype(float), axis=(0, 1))
    return r2(truth, np.broadcast_to(mean_K, truth.shape), target.average)


def _best_score(data: SessionData, target: Target, candidates: list[Features], chosen: np.ndarray) -> float:
    """Score of the features that do best within the training trials; those alone see the evaluated ones."""
    values, groups = target.of("train")[chosen], data.groups("train")[chosen]
    kept = np.ones(len(chosen), dtype=bool) if target.kind == "covariate" else values != ""
    fits: list[tuple[Fitted, Features]] = [
        (target.fit(features("train")[chosen][kept], values[kept], groups[kept]), features) for features in candidates
    ]
    fitted, features = min(fits, key=lambda pair: pair[0].loss)
    return fitted.score(features(data.split), target.of(data.split))


def _spec(data: SessionData, target: Target) -> TableSpec:
    nested = NESTED.format(split=data.split)
    if target.kind == "covariate":
        how = f"R2 of ridge regression of each bin, {_AVERAGES[target.average]} over columns of the covariate"
    else:
        how = "balanced accuracy of logistic regression on the features averaged over the bins of a window"
    return TableSpec(
        f"decoding_{target.table}",
        target.title,
        target.metric,
        f"{how}. {nested}. Latents and rates are those of the autoencoder, smoothed signals read the same bins.",
        main="latents",
    )
