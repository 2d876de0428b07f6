"""Statistics of generated activity against held-out activity, beside their noise floor, as tables.

The held-out trials are halved at random several times into I and J: the floor is the distance between the recorded
trials of I and of J, a model's value that between trials generated from the contexts of I and the same recorded J.
"""

from collections.abc import Iterator, Mapping

import numpy as np

from neurochorus.models import NeuralModel
from neurochorus.pretrain.evaluation.generated_trials import GeneratedTrials
from neurochorus.pretrain.evaluation.held_out_comparison import FEWEST_TRIALS, distances_from_held_out
from neurochorus.pretrain.evaluation.suite.session_data import Generated, SessionData
from neurochorus.pretrain.evaluation.suite.settings import SuiteSettings
from neurochorus.pretrain.evaluation.suite.tables import TableSpec, Undefined
from neurochorus.pretrain.evaluation.trial_comparison import (
    COPYING,
    DEFINITIONS,
    ComparisonConfig,
    TrialComparison,
    largest_population_count,
    mean_sizes,
)

FLOOR = "floor: disjoint halves of held-out trials"
SAMPLES = 2
Heads = Mapping[str, tuple[NeuralModel, str | None]]
"Row -> the model and head that make it."


def generated_statistics(data: SessionData, heads: Heads, settings: SuiteSettings) -> dict[TableSpec, dict[str, float]]:
    """One table a statistic, rows the heads and the floor; raises Undefined for too few trials or bins."""
    trials = len(data.windows(data.split).keys)
    if trials < FEWEST_TRIALS:
        raise Undefined(f"{trials} windows in the {data.split} split; halves need {FEWEST_TRIALS} or more")
    made = {row: data.generated(model, data.split, SAMPLES, head) for row, (model, head) in heads.items()}
    values = _spikes(data, made, settings) if data.spikes else _continuous(data, made)
    main = next(iter(heads))
    return {_spec(name, definition, main): rows for name, (definition, rows) in values.items()}


Values = dict[str, tuple[str, dict[str, float]]]
"Statistic -> definition and rows."


def _spikes(data: SessionData, made: Mapping[str, Generated], settings: SuiteSettings) -> Values:
    context, horizon = data.forecast.context_bins, data.forecast.horizon_bins
    train, held_out = (data.windows(split).signal_NTC[:, context:] for split in ("train", data.split))
    config = ComparisonConfig(
        lags=max(1, min(30, horizon - 1)),
        components=min(3, held_out.shape[-1]),
        smoothing_bins=min(3.0, horizon / 4),
        stride=1 if horizon < 8 else 4,
    )
    rows: dict[str, list[dict[str, float]]] = {row: [] for row in (*made, FLOOR)}
    try:
        with np.errstate(over="ignore"):  # densities without overlap: their divergence is infinite
            _measure(data, made, (train, held_out), config, settings, rows)
    except ValueError as error:
        raise Undefined(str(error)) from None
    means = {row: mean_sizes(found) for row, found in rows.items()}
    names = [name for name in DEFINITIONS if name not in COPYING]
    return {name: (DEFINITIONS[name], {row: values[name] for row, values in means.items()}) for name in names}


def _measure(
    data: SessionData,
    made: Mapping[str, Generated],
    signals_NHC: tuple[np.ndarray, np.ndarray],
    config: ComparisonConfig,
    settings: SuiteSettings,
    rows: dict[str, list[dict[str, float]]],
) -> None:
    """Add the distances of each halving to the rows; `signals_NHC`: horizons of the train split, and held-out ones."""
    train, held_out = signals_NHC
    largest = largest_population_count(held_out, *(one.counts_SNHC for one in made.values()))
    comparison = TrialComparison(train, held_out, data.corpus.bin_s, config)
    for split, first, second in _halves(len(held_out), settings):
        recorded = comparison.summary(held_out[second])
        for row, one in made.items():
            counts = one.counts_SNHC[split % SAMPLES, first]
            rows[row].append(comparison.distances(comparison.summary(counts), largest, recorded))
        rows[FLOOR].append(comparison.distances(comparison.summary(held_out[first]), largest, recorded))


def _halves(trials: int, settings: SuiteSettings) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    half = trials // 2
    for split in range(settings.generated_splits):
        order = np.random.default_rng([settings.seed, split]).permutation(trials)
        yield split, order[:half], order[half : 2 * half]


def _continuous(data: SessionData, made: Mapping[str, Generated]) -> Values:
    windows = data.windows(data.split)
    context = data.forecast.context_bins
    values: Values = {}
    for row, one in made.items():
        trials = GeneratedTrials(
            one.latents_SNHL,
            one.counts_SNHC,
            windows.signal_NTC[:, :context],
            windows.signal_NTC[:, context:],
            None,
            data.session_id,
            data.corpus.session(data.session_id).subject_id,
            row,
            data.corpus.modality,
            data.corpus.bin_s,
            data.seed,
            1.0,
        )
        for distance in distances_from_held_out(trials):
            name = distance.name.replace(" ", "_").replace(",", "")
            _, rows = values.setdefault(name, (distance.definition, {FLOOR: distance.noise_floor}))
            rows[row] = distance.generated
    return {
        name: (definition, {row: rows[row] for row in (*made, FLOOR)}) for name, (definition, rows) in values.items()
    }


def _spec(name: str, definition: str, main: str) -> TableSpec:
    if name.startswith("count_kl"):
        definition += "; infinite, and left out, where the recorded density is 0"
    if name == "spectrum_rmse":
        definition += "; left out where the horizon is too short for a frequency that smoothing lets through"
    return TableSpec(
        f"generated_{name}",
        f"generated activity: {name.replace('_', ' ')}",
        name,
        f"{definition}. Between trials generated from the contexts of one random half of the held-out trials and the "
        "recorded trials of the other half, over the bins of the horizon, mean over halvings; the floor is the "
        "distance between the recorded trials of the two halves. A perfect model stands at the floor, not at 0.",
        better="lower",
        main=main,
    )
