"""Comparisons of several animals as one: each was the new one in turn, and tests are over all their sessions."""

from collections.abc import Mapping
from typing import Any

from neurochorus.pretrain.evaluation.transfer import transfer_results

SHARED = ("metric", "title", "fractions", "seeds", "stop")


def pooled_transfer(results: Mapping[str, Mapping[str, Any]], **more: Any) -> dict[str, Any]:
    """The content of transfer.json over the sessions of all targets; `results`: target -> content of its transfer.json.

    What the models were and which size was chosen stand there by target, and of baselines those that all of them have:
    a PSTH, say, there is where trials begin at an event. Raises ValueError for comparisons that differ in metric,
    fractions, seeds, early stopping or arms, and for a session that is in two of them.
    """
    first_name, first = next(iter(results.items()))
    for name, one in results.items():
        for key in SHARED:
            if one.get(key) != first.get(key):
                raise ValueError(
                    f"{name}: {key} is {one.get(key)}, of {first_name} {first.get(key)}: "
                    "comparisons are pooled that were made alike"
                )
        if set(one["arms"]) != set(first["arms"]):
            raise ValueError(f"{name}: arms are {sorted(one['arms'])}, of {first_name} {sorted(first['arms'])}")
    return transfer_results(
        {key: first[key] for key in ("metric", "title", "definition")},
        first["fractions"],
        first["seeds"],
        _merged("arms", results),
        _of_all_sessions(results, {name: one["trials"] for name, one in results.items()}),
        _merged("baselines", results),
        subjects={session: name for name, one in results.items() for own in one["trials"].values() for session in own},
        model={name: one.get("model") for name, one in results.items()},
        tuned={name: one.get("tuned") for name, one in results.items()},
        stop=first.get("stop"),
        endings=[{**ending, "target": name} for name, one in results.items() for ending in one.get("endings", [])],
        **more,
    )


def _merged(key: str, results: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, dict[str, Any]]]:
    """Row -> fraction -> session -> value, over all targets; rows that all of them have."""
    rows = [row for row in next(iter(results.values()))[key] if all(row in one[key] for one in results.values())]
    return {row: _of_all_sessions(results, {name: one[key][row] for name, one in results.items()}) for row in rows}


def _of_all_sessions(
    results: Mapping[str, Any], by_target: Mapping[str, Mapping[str, Mapping[str, Any]]]
) -> dict[str, dict[str, Any]]:
    """Fraction -> session -> value."""
    made: dict[str, dict[str, Any]] = {}
    for name in results:
        for text, by_session in by_target[name].items():
            twice = sorted(set(made.get(text, {})) & set(by_session))
            if twice:
                raise ValueError(f"{name}: session {twice[0]!r} is in another comparison too; each is pooled once")
            made.setdefault(text, {}).update(by_session)
    return made
