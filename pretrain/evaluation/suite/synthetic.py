"""Decoders on generated activity: do they carry over, and do synthetic trials help to train one?

A generated trial continues the context of a recorded one, and carries the covariates and labels that were recorded in
its place. Only the bins of the horizon are read, of recorded and generated trials alike.
N windows, H horizon bins, F features, S samples.
"""

import numpy as np

from neurochorus.models import NeuralModel
from neurochorus.pretrain.evaluation.suite.decoders import Fitted
from neurochorus.pretrain.evaluation.suite.decoding_targets import Target
from neurochorus.pretrain.evaluation.suite.session_data import SessionData
from neurochorus.pretrain.evaluation.suite.settings import SuiteSettings
from neurochorus.pretrain.evaluation.suite.smoothing import exponential_smoothing
from neurochorus.pretrain.evaluation.suite.tables import TableSpec, Undefined

DECAY_BINS = 5.0
LATENTS = "latents"


class GeneratedFeatures:
    """Features of recorded and generated horizons of one session, made once for all targets."""

    def __init__(self, data: SessionData, model: NeuralModel, chosen: np.ndarray, settings: SuiteSettings):
        """`chosen`: windows of the train split to learn from, in that order."""
        self.data, self.settings = data, settings
        self.counts = "smoothed counts" if data.spikes else "smoothed signal"
        self.chosen = {"train": chosen, data.split: np.arange(len(data.windows(data.split).keys))}
        horizon = slice(data.forecast.context_bins, None)
        self.real: dict[str, dict[str, np.ndarray]] = {}
        self.made: dict[str, dict[str, np.ndarray]] = {}
        for split, places in self.chosen.items():
            signal_NTC = data.windows(split).signal_NTC[places]
            samples = settings.synthetic_samples if split == "train" else 1
            generated = data.generated(model, split, samples, places=places)
            counts_SNHC = generated.counts_SNHC
            self.real[split] = {
                LATENTS: data.latents(model, split)[places][:, horizon],
                self.counts: exponential_smoothing(signal_NTC, DECAY_BINS)[:, horizon],
            }
            context_NTC = signal_NTC[:, : horizon.start].astype(counts_SNHC.dtype)
            whole = [np.concatenate((context_NTC, counts_NHC), axis=1) for counts_NHC in counts_SNHC]
            self.made[split] = {
                LATENTS: generated.latents_SNHL,
                self.counts: np.stack([exponential_smoothing(one, DECAY_BINS)[:, horizon] for one in whole]),
            }
        self.groups_N = data.groups("train")[chosen]

    def targets(self, target: Target, split: str) -> np.ndarray:
        return target.of(split, slice(self.data.forecast.context_bins, None))[self.chosen[split]]


def generated_rows(features: GeneratedFeatures, target: Target) -> dict[TableSpec, dict[str, float]]:
    """Decoders of latents trained on recorded or generated trials, applied to recorded or generated ones."""
    split = features.data.split
    train, test = features.targets(target, "train"), features.targets(target, split)
    kept = _known(train)
    learned = {
        "recorded": features.real["train"][LATENTS],
        "generated": features.made["train"][LATENTS][0],
    }
    applied = {"recorded": features.real[split][LATENTS], "generated": features.made[split][LATENTS][0]}
    rows = {}
    for learned_from, values in learned.items():
        decoder = target.fit(values[kept], train[kept], features.groups_N[kept])
        for applied_to, others in applied.items():
            rows[f"{learned_from} to {applied_to}"] = decoder.score(others, test)
    spec = TableSpec(
        f"decoding_generated_{target.table}",
        f"{target.title}: decoders of recorded latents on generated ones, and vice versa",
        target.metric,
        "A decoder of latents, trained on recorded or generated trials of the train split, applied to recorded or "
        f"generated trials of the {split} split; over the bins of the horizon. A generated trial is one free-running "
        "sample from a recorded context and carries what was recorded in its place: where the future is open, it need "
        "not agree with it.",
        pairs=(("generated to recorded", "recorded to recorded"), ("recorded to generated", "recorded to recorded")),
    )
    return {spec: rows}


def synthetic_rows(features: GeneratedFeatures, target: Target) -> dict[TableSpec, dict[str, float]]:
    """Decoders trained on n recorded trials, with and without synthetic ones, scored on recorded trials."""
    split, samples = features.data.split, features.settings.synthetic_samples
    train, test = features.targets(target, "train"), features.targets(target, split)
    rows: dict[str, float] = {}
    pairs: list[tuple[str, str]] = []
    for number in features.settings.synthetic_trials:
        for kind in (LATENTS, features.counts):
            real = f"{kind}, {number} recorded"
            more = f"{real} + {samples * number} synthetic"
            pairs.append((more, real))
            if number > len(train):
                continue
            try:
                plain, helped = _with_and_without(features, target, kind, train[:number], number)
            except Undefined:  # so few trials hold a single label
                continue
            rows[real] = plain.score(features.real[split][kind], test)
            rows[more] = helped.score(features.real[split][kind], test)
    if not rows:
        return {}
    spec = TableSpec(
        f"decoding_synthetic_{target.table}",
        f"{target.title}: the gain from synthetic trials",
        target.metric,
        f"Decoders trained on n recorded trials of the train split, or on these and {samples} synthetic ones for each "
        f"(free-running samples from its context, with its covariates), scored on recorded trials of the {split} "
        "split; over the bins of the horizon. The generative model itself was trained on the whole train split, with "
        "no covariate but those that it reads.",
        pairs=tuple(pairs),
    )
    return {spec: rows}


def _with_and_without(
    features: GeneratedFeatures, target: Target, kind: str, values: np.ndarray, number: int
) -> tuple[Fitted, Fitted]:
    """Decoders trained on the first `number` recorded trials, and on these and their synthetic continuations."""
    kept = _known(values)
    real, groups = features.real["train"][kind][:number][kept], features.groups_N[:number][kept]
    made_SNHF = features.made["train"][kind][:, :number][:, kept]
    samples = len(made_SNHF)
    plain = target.fit(real, values[kept], groups)
    helped = target.fit(
        np.concatenate((real, *made_SNHF)),
        np.concatenate([values[kept]] * (samples + 1)),
        np.concatenate([groups] * (samples + 1)),
    )
    return plain, helped


def _known(values: np.ndarray) -> np.ndarray:
    """Trials that a decoder may learn from, (N,): all of a covariate, those with a label that is kept."""
    return values != "" if values.ndim == 1 else np.ones(len(values), dtype=bool)
