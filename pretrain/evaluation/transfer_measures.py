"""What the arms of a comparison are measured by: forecasts, or a covariate that is decoded from their latents."""

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from neurochorus.data_shards.corpus import Corpus
from neurochorus.data_shards.naming import nearest_hint
from neurochorus.models import NeuralModel
from neurochorus.pretrain.config import ForecastSection
from neurochorus.pretrain.covariates import refuse_other_widths
from neurochorus.pretrain.evaluation.baseline_forecasts import baseline_forecasts
from neurochorus.pretrain.evaluation.evaluate import DEFINITIONS
from neurochorus.pretrain.evaluation.forecaster import usual_rates
from neurochorus.pretrain.evaluation.metrics import bits_per_spike, r2
from neurochorus.pretrain.evaluation.scored_forecast import batch_of, chunks
from neurochorus.pretrain.evaluation.suite.decoding import (
    chosen_windows,
    latents_score,
    signal_scores,
    train_mean_score,
)
from neurochorus.pretrain.evaluation.suite.decoding_targets import Target, covariate_target
from neurochorus.pretrain.evaluation.suite.session_data import SessionData
from neurochorus.pretrain.evaluation.suite.settings import SuiteSettings
from neurochorus.pretrain.evaluation.suite.tables import Undefined
from neurochorus.pretrain.evaluation.windows import read_windows

FORECAST, DECODING = "forecast", "decoding"


class Measure(Protocol):
    """A number for a model, or for a baseline, on a split of a session; more is better."""

    @property
    def name(self) -> str:
        """What files of its values are called."""
        ...

    @property
    def metric(self) -> str: ...

    @property
    def title(self) -> str:
        """What the metric is of."""
        ...

    @property
    def definition(self) -> str: ...

    def value(self, model: NeuralModel, corpus: Corpus, session_id: str, split: str) -> float:
        """The value of a model. What is fitted for it is fitted on what the corpus has of the train split."""
        ...

    def baselines(self, corpus: Corpus, session_id: str, split: str) -> dict[str, float]:
        """Baseline -> value; fitted on the train split, settings chosen without the evaluated one."""
        ...

    def problem(self, data: SessionData) -> str | None:
        """Why the session cannot be measured on its split, beyond its having no window."""
        ...


def measure_called(
    text: str, corpus: Corpus, forecast: ForecastSection, memory_bins: float | None = None, causal: bool = True
) -> Measure:
    """The measure of `--measure`: forecast, or decoding:COVARIATE. Raises ValueError for anything else, and for a
    covariate that no session has.

    `memory_bins`: time constant of the memory of earlier samples that the models have; `causal`: latents read no later
    bins, so smoothed counts do not either.
    """
    kind, _, covariate = text.partition(":")
    if text == FORECAST:
        return Forecasts(corpus.modality == "spikes", forecast, memory_bins)
    if kind == DECODING and covariate:
        known = sorted({name for session in corpus.sessions for name in session.covariates})
        if covariate not in known:
            raise ValueError(
                f"--measure {text}: no session has it; {nearest_hint(covariate, known, 'covariates of the data')}"
            )
        return Decoding(covariate, forecast, causal)
    raise ValueError(f"--measure {text!r}: expected {FORECAST} or {DECODING}:COVARIATE")


def file_stem(what: str, measure: Measure) -> str:
    """The name, without ending, of a file that holds `what` of a comparison: that of forecasts, or another's own."""
    return what if measure.name == FORECAST else f"{what}-{measure.name}"


@dataclass(frozen=True)
class Forecasts:
    """The forecast row of launch/evaluate.py: expected rates of rollouts."""

    spikes: bool
    forecast: ForecastSection
    memory_bins: float | None = None

    name = FORECAST
    title = "forecasts"

    @property
    def metric(self) -> str:
        return "bits_per_spike" if self.spikes else "r2"

    @property
    def definition(self) -> str:
        return f"{DEFINITIONS[self.metric]} The train mean of counts has one pseudo-spike."

    def value(self, model: NeuralModel, corpus: Corpus, session_id: str, split: str, seed: int = 0) -> float:
        entry, forecast = corpus.session(session_id), self.forecast
        model.registry.rows(entry)
        refuse_other_widths([entry], model.config.dynamics.covariate_columns)
        context, horizon = forecast.context_bins, forecast.horizon_bins
        names = model.config.dynamics.covariates
        windows = read_windows(corpus, session_id, split, context + horizon, names, forecast.stride_bins)
        made = [
            model.forecast(batch_of(model, session_id, windows, chunk, context), horizon, forecast.samples, seed)[0]
            for chunk in chunks(windows, forecast.samples * horizon)
        ]
        rates = np.concatenate([one.cpu().numpy() for one in made])
        return self._score(windows.signal_NTC[:, context:], rates)

    def baselines(self, corpus: Corpus, session_id: str, split: str) -> dict[str, float]:
        """With a memory there are baselines that have it too.

        Unlike in the table of evaluation, the train mean of counts has one pseudo-spike: of few trials some unit has
        no spike, and its rate of 0 would decide the value.
        """
        data = SessionData(corpus, session_id, split, self.forecast)
        made = baseline_forecasts(data, self.memory_bins)
        if self.spikes:
            made["train mean"] = usual_rates(data.windows("train").signal_NTC)
        truth = data.windows(split).signal_NTC[:, self.forecast.context_bins :]
        return {name: self._score(truth, np.broadcast_to(one, truth.shape)) for name, one in made.items()}

    def problem(self, data: SessionData) -> str | None:
        """No spike in the horizons that are scored."""
        if self.spikes and not data.windows(data.split).signal_NTC[:, self.forecast.context_bins :].any():
            return f"no spike in the horizons of its {data.split} windows"
        return None

    def _score(self, truth: Any, rates: Any) -> float:
        return float((bits_per_spike if self.spikes else r2)(truth, rates))


@dataclass(frozen=True)
class Decoding:
    """A covariate decoded from latents, bin by bin, against from counts: the row of launch/evaluate.py's suite."""

    covariate: str
    forecast: ForecastSection
    causal: bool = True

    metric = "r2"

    @property
    def name(self) -> str:
        return f"{DECODING}-{self.covariate}"

    @property
    def title(self) -> str:
        return f"{self.covariate} decoded from latents (baselines: from counts)"

    @property
    def definition(self) -> str:
        return (
            f"R2 of ridge regression of {self.covariate} in each bin, averaged over its columns; the decoder is fitted "
            "on the train split, its penalty (and smoothing) chosen by cross-validation over trials within it."
        )

    def value(self, model: NeuralModel, corpus: Corpus, session_id: str, split: str) -> float:
        data = SessionData(corpus, session_id, split, self.forecast)
        target, chosen = self._to_fit(data)
        return latents_score(data, model, target, chosen)

    def baselines(self, corpus: Corpus, session_id: str, split: str) -> dict[str, float]:
        data = SessionData(corpus, session_id, split, self.forecast)
        target, chosen = self._to_fit(data)
        made = signal_scores(data, target, chosen, self.causal)
        return {**made, "train mean": train_mean_score(data, target, chosen)}

    def problem(self, data: SessionData) -> str | None:
        """The covariate is unknown or does not vary, or is known in too few trials to fit a decoder."""
        try:
            target, chosen = self._to_fit(data)
            signal_NTC, groups_N = data.windows("train").signal_NTC, data.groups("train")
            target.fit(signal_NTC[chosen], target.of("train")[chosen], groups_N[chosen])
        except Undefined as error:
            return str(error)
        return None

    def _to_fit(self, data: SessionData) -> tuple[Target, np.ndarray]:
        """What is decoded, and the windows of the train split that the decoder learns from."""
        settings = SuiteSettings()
        return covariate_target(data, self.covariate, settings.column_average), chosen_windows(data, settings)
