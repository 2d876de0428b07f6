"""What a pretrained model is worth to new sessions: forecasts by arm and share of the target data, as transfer.json.

An arm is a way to get a model of the target sessions: an adaptation of the pretrained one, or a training from scratch.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from neurochorus.data_shards.corpus import Corpus
from neurochorus.models import NeuralModel
from neurochorus.pretrain.config import ForecastSection
from neurochorus.pretrain.covariates import refuse_other_widths
from neurochorus.pretrain.evaluation.baselines import all_baselines
from neurochorus.pretrain.evaluation.evaluate import DEFINITIONS
from neurochorus.pretrain.evaluation.metrics import bits_per_spike, r2
from neurochorus.pretrain.evaluation.scored_forecast import batch_of, chunks
from neurochorus.pretrain.evaluation.suite.paired import compare_rows, paired_bootstrap
from neurochorus.pretrain.evaluation.windows import read_windows

ByArm = Mapping[str, Mapping[str, Mapping[str, Sequence[float | None]]]]
"""Arm -> fraction as text -> session -> a value for each seed."""
SCRATCH = "scratch"
"""How the names of arms begin that start from nothing."""


def fraction_text(fraction: float) -> str:
    """A share of the data as a key.

    >>> fraction_text(0.1), fraction_text(1.0)
    ('0.1', '1')
    """
    return f"{fraction:g}"


def metric_of(corpus: Corpus) -> str:
    return "bits_per_spike" if corpus.modality == "spikes" else "r2"


def forecast_value(
    model: NeuralModel, corpus: Corpus, session_id: str, split: str, forecast: ForecastSection, seed: int = 0
) -> float:
    """The forecast row of launch/evaluate.py for one model and session: rollouts, rates the mean over samples."""
    entry, context = corpus.session(session_id), forecast.context_bins
    model.registry.rows(entry)
    refuse_other_widths([entry], model.config.dynamics.covariate_columns)
    bins = context + forecast.horizon_bins
    windows = read_windows(corpus, session_id, split, bins, model.config.dynamics.covariates)
    made = [
        model.forecast(
            batch_of(model, session_id, windows, chunk, context), forecast.horizon_bins, forecast.samples, seed
        )[0]
        for chunk in chunks(windows, forecast.samples * forecast.horizon_bins)
    ]
    rates = np.concatenate([one.cpu().numpy() for one in made])
    return _measure(corpus)(windows.signal_NTC[:, context:], rates)


def baseline_values(corpus: Corpus, session_id: str, split: str, forecast: ForecastSection) -> dict[str, float]:
    """Baseline -> value; fitted on what the corpus has of the train split, settings chosen on that of the valid one."""
    context, bins = forecast.context_bins, forecast.context_bins + forecast.horizon_bins
    train, valid, test = (read_windows(corpus, session_id, part, bins).signal_NTC for part in ("train", "valid", split))
    values = {}
    for name, baseline in all_baselines(corpus.modality).items():
        baseline.fit(train[:, :context], train[:, context:], valid[:, :context], valid[:, context:])
        values[name] = float(_measure(corpus)(test[:, context:], baseline.predict(test[:, :context])))
    return values


def _measure(corpus: Corpus) -> Any:
    return bits_per_spike if corpus.modality == "spikes" else r2


def transfer_results(
    metric: str,
    fractions: Sequence[float],
    seeds: Sequence[int],
    arms: ByArm,
    trials: Mapping[str, Mapping[str, int]],
    baselines: Mapping[str, Mapping[str, Mapping[str, float]]],
    **more: Any,
) -> dict[str, Any]:
    """The content of transfer.json: the values, and paired comparisons of adaptations with trainings from scratch."""
    return {
        "metric": metric,
        "definition": f"{DEFINITIONS[metric]} Forecast of the test split; a fraction is the share of each target "
        "session's train and valid samples that was used, by models and baselines alike.",
        "fractions": list(fractions),
        "seeds": list(seeds),
        "arms": arms,
        "trials": trials,
        "comparisons": transfer_comparisons(arms, fractions),
        "baselines": baselines,
        "reaches": {
            arm: reaches(fractions, _means(arms[arm], fractions), _means(best, fractions)[-1])
            for arm in arms
            if not arm.startswith(SCRATCH) and (best := arms.get(f"{SCRATCH}, jointly")) is not None
        },
        **more,
    }


def over_seeds(values: Mapping[str, Sequence[float | None]]) -> dict[str, float | None]:
    """Session -> mean over the seeds that have a value; None where none has."""
    made = {}
    for session, per_seed in values.items():
        numbers = [value for value in per_seed if value is not None and math.isfinite(value)]
        made[session] = float(np.mean(numbers)) if numbers else None
    return made


def transfer_comparisons(arms: ByArm, fractions: Sequence[float]) -> list[dict[str, Any]]:
    """Every adaptation against every training from scratch at each fraction, paired over sessions (means over seeds).

    As the `comparisons` of metrics.json, with `fraction` beside them.
    """
    made = []
    for fraction in fractions:
        rows = {arm: over_seeds(by_fraction.get(fraction_text(fraction), {})) for arm, by_fraction in arms.items()}
        for adapted in (arm for arm in rows if not arm.startswith(SCRATCH)):
            for scratch in (arm for arm in rows if arm.startswith(SCRATCH)):
                found = compare_rows("transfer", "higher", rows, adapted, scratch)
                if found is not None:
                    made.append({**found, "fraction": fraction})
    return made


def reaches(fractions: Sequence[float], values: Sequence[float | None], target: float | None) -> float | None:
    """The share of the data from which on an arm's curve stays at `target` or above; None where it ends below it.

    Between two fractions the curve is straight in the logarithm of the fraction.

    >>> round(reaches([0.25, 1.0], [0.1, 0.3], 0.2), 9)
    0.5
    """
    points = [(f, v) for f, v in sorted(zip(fractions, values, strict=True)) if v is not None]
    if target is None or not points or points[-1][1] < target:
        return None
    place = len(points) - 1
    while place > 0 and points[place - 1][1] >= target:
        place -= 1
    if place == 0:
        return points[0][0]
    (before, low), (after, high) = points[place - 1 : place + 1]
    share = (target - low) / (high - low)
    return float(math.exp(math.log(before) + share * (math.log(after) - math.log(before))))


def summary(values: Mapping[str, float | None]) -> tuple[float, float, float] | None:
    """Mean over sessions and its 95 % interval (bootstrap over sessions; the mean itself for a single session)."""
    numbers = np.array([value for value in values.values() if value is not None])
    if not len(numbers):
        return None
    found = paired_bootstrap(numbers)
    mean = float(numbers.mean())
    low, high = found["low"], found["high"]
    return mean, mean if low is None else float(low), mean if high is None else float(high)


def transfer_markdown(results: Mapping[str, Any]) -> str:
    """The table of means with 95 % intervals, and the paired tests."""
    fractions = [fraction_text(fraction) for fraction in results["fractions"]]
    sessions = len(next(iter(results["trials"].values())))
    heads = [f"{100 * float(text):g} % ({_trials(results['trials'].get(text, {}))} trials)" for text in fractions]
    lines = [
        f"{results['metric'].replace('_', ' ')} of forecasts on the test split, mean over {sessions} sessions and "
        f"{len(results['seeds'])} seeds, 95 % interval over sessions",
        "",
        "| | " + " | ".join(heads) + " |",
        "|---" * (1 + len(fractions)) + "|",
    ]
    for arm, by_fraction in results["arms"].items():
        lines.append(_line(arm, [summary(over_seeds(by_fraction.get(text, {}))) for text in fractions]))
    for name, by_fraction in results["baselines"].items():
        lines.append(_line(f"*{name}*", [summary(by_fraction.get(text, {})) for text in fractions]))
    lines += ["", "| data | better | than | difference | p | sessions won |", "|---|---|---|---|---|---|"]
    for one in results["comparisons"]:
        interval = "" if one["low"] is None else f" ({one['low']:.4f} to {one['high']:.4f})"
        p = "" if one["p"] is None else f"{one['p']:.2g}"
        lines.append(
            f"| {100 * one['fraction']:g} % | {one['better_row']} | {one['than_row']} | "
            f"{one['difference']:.4f}{interval} | {p} | {one['wins']} of {one['sessions']} |"
        )
    lines += [""] + [
        f"{arm} reaches what training from scratch reaches on all data with "
        + ("none of the fractions" if share is None else f"{100 * share:.0f} % of the data")
        for arm, share in results["reaches"].items()
    ]
    return "\n".join(lines) + "\n"


def _line(name: str, cells: Sequence[tuple[float, float, float] | None]) -> str:
    shown = ["" if cell is None else f"{cell[0]:.4f} ({cell[1]:.4f} to {cell[2]:.4f})" for cell in cells]
    return f"| {name} | " + " | ".join(shown) + " |"


def _trials(by_session: Mapping[str, int]) -> str:
    counts = sorted(by_session.values())
    return "" if not counts else str(counts[0]) if counts[0] == counts[-1] else f"{counts[0]} to {counts[-1]}"


def _means(
    by_fraction: Mapping[str, Mapping[str, Sequence[float | None]]], fractions: Sequence[float]
) -> list[float | None]:
    found = [summary(over_seeds(by_fraction.get(fraction_text(fraction), {}))) for fraction in fractions]
    return [None if one is None else one[0] for one in found]
