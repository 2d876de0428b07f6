"""What a pretrained model is worth to new sessions: a measure by arm and share of the target data, as transfer.json.

An arm is a way to get a model of the target sessions: an adaptation of the pretrained one, or a training from scratch.
"""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from neurochorus.pretrain.evaluation.suite.paired import compare_rows, paired_bootstrap

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


def transfer_results(
    measure: Mapping[str, str],
    fractions: Sequence[float],
    seeds: Sequence[int],
    arms: ByArm,
    trials: Mapping[str, Mapping[str, int]],
    baselines: Mapping[str, Mapping[str, Mapping[str, float | None]]],
    subjects: Mapping[str, str] | None = None,
    **more: Any,
) -> dict[str, Any]:
    """The content of transfer.json: the values, and paired comparisons of adaptations with the other rows.

    `subjects`: session -> animal, where there are several: comparisons then say in how many of them they hold.
    `measure`: `metric`, what it is of (`title`) and its `definition`. A value that is not defined, as bits a spike
    without spikes, is None there. `reaches` tells with what share of the data an adaptation is as good as the best
    training from scratch is on the largest share: `reaches_what`.
    """
    most = max(fractions)
    best = best_arm(arms, most, from_scratch=True)
    target = None if best is None else {"arm": best[0], "fraction": most, "value": best[1]}
    return {
        "metric": measure["metric"],
        "title": measure["title"],
        "definition": f"{measure['definition']} On the test split; a fraction is the share of each target session's "
        "train and valid samples that was used, by models and baselines alike.",
        "fractions": list(fractions),
        "seeds": list(seeds),
        "arms": {
            arm: {
                text: {session: [_or_none(value) for value in values] for session, values in by_session.items()}
                for text, by_session in by_fraction.items()
            }
            for arm, by_fraction in arms.items()
        },
        "trials": trials,
        "comparisons": transfer_comparisons(arms, fractions, baselines, subjects),
        **({} if subjects is None else {"subjects": dict(subjects)}),
        "baselines": {
            name: {
                text: {session: _or_none(value) for session, value in by_session.items()}
                for text, by_session in by_fraction.items()
            }
            for name, by_fraction in baselines.items()
        },
        "reaches": {
            arm: reaches(fractions, _means(arms[arm], fractions), target["value"])
            for arm in arms
            if not arm.startswith(SCRATCH) and target is not None
        },
        "reaches_what": target,
        **more,
    }


def best_arm(arms: ByArm, fraction: float, from_scratch: bool) -> tuple[str, float] | None:
    """Of the trainings from scratch, or of the adaptations, the one with the best mean at a fraction, and that mean."""
    known = {
        arm: mean
        for arm, by_fraction in arms.items()
        if arm.startswith(SCRATCH) == from_scratch and (mean := _means(by_fraction, [fraction])[0]) is not None
    }
    return max(known.items(), key=lambda one: one[1]) if known else None


def _or_none(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def over_seeds(values: Mapping[str, Sequence[float | None]]) -> dict[str, float | None]:
    """Session -> mean over the seeds that have a value; None where none has."""
    made = {}
    for session, per_seed in values.items():
        numbers = [number for value in per_seed if (number := _or_none(value)) is not None]
        made[session] = float(np.mean(numbers)) if numbers else None
    return made


def transfer_comparisons(
    arms: ByArm,
    fractions: Sequence[float],
    baselines: Mapping[str, Mapping[str, Mapping[str, float | None]]],
    subjects: Mapping[str, str] | None = None,
) -> list[dict[str, Any]]:
    """At each fraction, paired over sessions (means over seeds): every adaptation against every training from scratch,
    the other adaptations and the best baseline of that fraction, and the best training from scratch against the latter.

    As the `comparisons` of metrics.json, with `fraction` beside them and the mean difference of each seed (`by_seed`;
    None where no session has both values, nothing for baselines). With `subjects` (session -> animal) also how many
    animals there are, and in how many the mean over their sessions is better (`subjects_won`).
    """
    made = []
    for fraction in fractions:
        text = fraction_text(fraction)
        rows = {arm: over_seeds(by_fraction.get(text, {})) for arm, by_fraction in arms.items()}
        of_baselines = {
            name: {session: _or_none(value) for session, value in by_fraction.get(text, {}).items()}
            for name, by_fraction in baselines.items()
        }
        rows |= of_baselines
        for one, other in _pairs(arms, of_baselines, fraction):
            found = compare_rows("transfer", "higher", rows, one, other)
            if found is not None:
                found |= {"fraction": fraction, "by_seed": []}
                if one in arms and other in arms:
                    found["by_seed"] = _by_seed(*(arms[found[key]][text] for key in ("better_row", "than_row")))
                by_subject = {} if subjects is None else _subjects_won(rows, found, subjects)
                made.append({**found, **by_subject})
    return made


def _pairs(
    arms: ByArm, baselines: Mapping[str, Mapping[str, float | None]], fraction: float
) -> Iterator[tuple[str, str]]:
    """Rows that are compared at a fraction; `baselines` of that fraction: name -> session -> value."""
    adapted = [arm for arm in arms if not arm.startswith(SCRATCH)]
    scratch = [arm for arm in arms if arm.startswith(SCRATCH)]
    yield from itertools.product(adapted, scratch)
    yield from itertools.combinations(adapted, 2)
    numbers = {name: [value for value in values.values() if value is not None] for name, values in baselines.items()}
    most = max(map(len, numbers.values()), default=0)
    means = {name: float(np.mean(values)) for name, values in numbers.items() if values and len(values) == most}
    if means:  # those that are defined in all sessions: a PSTH may be there in some alone
        baseline = max(means, key=lambda name: means[name])
        best = best_arm(arms, fraction, from_scratch=True)
        yield from ((arm, baseline) for arm in [*adapted, *([] if best is None else [best[0]])])


def _subjects_won(
    rows: Mapping[str, Mapping[str, float | None]], found: Mapping[str, Any], subjects: Mapping[str, str]
) -> dict[str, int]:
    gains: dict[str, list[float]] = {}
    for session, better in rows[found["better_row"]].items():
        than = rows[found["than_row"]].get(session)
        if better is not None and than is not None:
            gains.setdefault(subjects[session], []).append(better - than)
    return {"subjects": len(gains), "subjects_won": sum(float(np.mean(own)) > 0 for own in gains.values())}


def _by_seed(
    better: Mapping[str, Sequence[float | None]], than: Mapping[str, Sequence[float | None]]
) -> list[float | None]:
    """Difference in the mean over sessions that have both values, seed by seed."""
    per_seed: list[list[float]] = []
    for session in [session for session in better if session in than]:
        for place, (one, other) in enumerate(zip(better[session], than[session], strict=False)):
            per_seed += [[]] if place == len(per_seed) else []
            if _or_none(one) is not None and _or_none(other) is not None:
                assert one is not None
                assert other is not None
                per_seed[place].append(one - other)
    return [float(np.mean(gains)) if gains else None for gains in per_seed]


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
    """Mean over sessions and its 95 % interval (the mean itself for a single session).

    The interval is Student's of few sessions, else by bootstrap over sessions.
    """
    numbers = np.array([value for value in values.values() if value is not None])
    if not len(numbers):
        return None
    found = paired_bootstrap(numbers)
    mean = float(numbers.mean())
    low, high = found["low"], found["high"]
    return mean, mean if low is None else float(low), mean if high is None else float(high)


def _means(
    by_fraction: Mapping[str, Mapping[str, Sequence[float | None]]], fractions: Sequence[float]
) -> list[float | None]:
    found = [summary(over_seeds(by_fraction.get(fraction_text(fraction), {}))) for fraction in fractions]
    return [None if one is None else one[0] for one in found]
