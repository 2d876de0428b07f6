"""PSTH R2 (Pei et al. 2021): do predicted rates, averaged over the trials of a condition, follow the true PSTHs?

N windows, T bins, C units.
"""

from collections import Counter
from collections.abc import Mapping
from typing import Literal

import numpy as np

from neurochorus.data_shards.naming import nearest_hint
from neurochorus.data_shards.recording import SPLITS
from neurochorus.models import NeuralModel
from neurochorus.pretrain.evaluation.psth import condition_psth_r2, smoothed_psth
from neurochorus.pretrain.evaluation.suite.decoding_targets import MOST_LABELS
from neurochorus.pretrain.evaluation.suite.session_data import SessionData
from neurochorus.pretrain.evaluation.suite.settings import SuiteSettings
from neurochorus.pretrain.evaluation.suite.smoothing import exponential_smoothing
from neurochorus.pretrain.evaluation.suite.tables import TableSpec, Undefined

SMOOTHED_DECAY_BINS = 5.0
AUTOENCODER = "autoencoder"
Average = Literal["uniform", "variance"]
AVERAGES: tuple[Average, ...] = ("uniform", "variance")
METRICS = {"uniform": "r2", "variance": "r2_variance_weighted"}


def psth_tables(
    data: SessionData,
    models: Mapping[str, NeuralModel],
    settings: SuiteSettings,
    forecast_rates: Mapping[str, np.ndarray],
) -> dict[TableSpec, dict[str, float]]:
    """R2 of rates of the same bins, and of forecasts (row -> (N, H, C)); raises Undefined without aligned trials."""
    data.require_aligned()
    numbers = _conditions(data, settings)
    signal = {split: data.windows(split).signal_NTC for split in SPLITS}
    joined_NTC, joined_N = (np.concatenate([part[split] for split in SPLITS]) for part in (signal, numbers))
    truth = {
        condition: smoothed_psth(joined_NTC[joined_N == condition], settings.psth_smoothing_s / data.corpus.bin_s)
        for condition in np.unique(joined_N[joined_N >= 0]).tolist()
    }
    test_N, test_NTC = numbers[data.split], signal[data.split]
    train_mean_C = signal["train"].mean(axis=(0, 1))
    rates = {
        (AUTOENCODER if number == 0 else f"{AUTOENCODER}, {name}"): data.rates(model, data.split)
        for number, (name, model) in enumerate(models.items())
    }
    rates["smoothed counts"] = exponential_smoothing(test_NTC, SMOOTHED_DECAY_BINS)
    rates["psth, train trials"] = _train_psth(signal["train"], numbers["train"], test_N, truth, settings, data)
    rates["train mean"] = np.broadcast_to(train_mean_C, test_NTC.shape)
    context = data.forecast.context_bins
    ahead = {condition: psth_TC[context:] for condition, psth_TC in truth.items()}
    main, made = next(iter(models)), {}
    for average in AVERAGES:
        try:
            here = {row: condition_psth_r2(values, test_N, truth, average) for row, values in rates.items()}
            later = {row: condition_psth_r2(values, test_N, ahead, average) for row, values in forecast_rates.items()}
        except ValueError as error:
            raise Undefined(str(error)) from None
        made |= {_spec(settings, average): here, _forecast_spec(settings, average, main): later}
    return made


def _conditions(data: SessionData, settings: SuiteSettings) -> dict[str, np.ndarray]:
    """Number of the condition of each window by split, -1 for conditions with too few trials."""
    labels = {split: [trial.labels for trial in data.trials(split)] for split in SPLITS}
    known = sorted({name for split in SPLITS for trial in labels[split] for name in trial})
    values = {
        name: {str(trial.get(name)) for split in SPLITS for trial in labels[split]} for name in known
    }  # a time, say, is another in every trial
    categories = [name for name in known if len(values[name]) <= MOST_LABELS]
    wanted = categories if settings.condition_labels is None else settings.condition_labels
    for name in wanted:
        if name not in known:
            raise Undefined(
                f"condition_labels: its trials have no label {name!r}; {nearest_hint(name, known, 'labels')}"
            )
    of = {split: [tuple(str(trial.get(name)) for name in wanted) for trial in labels[split]] for split in SPLITS}
    sizes = Counter(condition for split in SPLITS for condition in of[split])
    kept = sorted(condition for condition, trials in sizes.items() if trials >= settings.condition_trials)
    place = {condition: number for number, condition in enumerate(kept)}
    return {split: np.array([place.get(condition, -1) for condition in of[split]], dtype=int) for split in SPLITS}


def _train_psth(
    train_NTC: np.ndarray,
    train_N: np.ndarray,
    test_N: np.ndarray,
    truth: Mapping[int, np.ndarray],
    settings: SuiteSettings,
    data: SessionData,
) -> np.ndarray:
    """The PSTH of the train trials of each test trial's condition (N, T, C), the mean over all where it has none."""
    smoothing = settings.psth_smoothing_s / data.corpus.bin_s
    over_all = smoothed_psth(train_NTC, smoothing)
    with_trials = [condition for condition in truth if (train_N == condition).any()]
    own = {condition: smoothed_psth(train_NTC[train_N == condition], smoothing) for condition in with_trials}
    return np.stack([own.get(condition, over_all) for condition in test_N.tolist()])


def _truth(settings: SuiteSettings, average: Average) -> str:
    how = (
        "averaged over units whose PSTH varies (nlb_tools eval_psth); a unit that hardly fires weighs as much as any"
        if average == "uniform"
        else "averaged over units by the variance of their PSTHs"
    )
    which = (
        f"all with at most {MOST_LABELS} values"
        if settings.condition_labels is None
        else ", ".join(settings.condition_labels) or "none"
    )
    return (
        f"true PSTHs: mean over all trials of a condition, smoothed by a Gaussian of sd {settings.psth_smoothing_s:g} "
        f"s; conditions: combinations of the trials' labels ({which}) with at least {settings.condition_trials} "
        "trials, one for all trials without labels. Rates are averaged over the evaluated trials of a condition, "
        f"conditions are stacked, and R2 is {how}"
    )


def _spec(settings: SuiteSettings, average: Average) -> TableSpec:
    return TableSpec(
        f"psth_{METRICS[average]}",
        "PSTH R2 of rates of the same bins",
        METRICS[average],
        f"{_truth(settings, average)}. The autoencoder reads the bins that it is scored on. The PSTH of the train "
        "trials is made of most of the trials behind the true one: what is nearly reachable, not a baseline.",
        main=AUTOENCODER,
    )


def _forecast_spec(settings: SuiteSettings, average: Average, main: str) -> TableSpec:
    return TableSpec(
        f"psth_{METRICS[average]}_forecast",
        "PSTH R2 of forecasts",
        METRICS[average],
        f"{_truth(settings, average)}. Over the bins of the horizon; rates are free-running forecasts, means over "
        "samples.",
        main=main,
    )
