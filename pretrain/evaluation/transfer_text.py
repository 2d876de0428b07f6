"""transfer.md: the means of every arm by share of the data, the paired tests, and how the trainings ended."""

from collections.abc import Mapping, Sequence
from typing import Any

from neurochorus.pretrain.evaluation.suite.paired import FEW_SESSIONS
from neurochorus.pretrain.evaluation.transfer import fraction_text, over_seeds, summary


def transfer_markdown(results: Mapping[str, Any]) -> str:
    """The content of transfer.json as text."""
    fractions = [fraction_text(fraction) for fraction in results["fractions"]]
    sessions = len(next(iter(results["trials"].values())))
    kind = "Student's t" if sessions < FEW_SESSIONS else "bootstrap"
    heads = [f"{_percent(float(text))} ({_trials(results['trials'].get(text, {}))} trials)" for text in fractions]
    lines = [
        f"{results['metric'].replace('_', ' ')} of {results['title']} on the test split, mean over {sessions} sessions "
        f"and {len(results['seeds'])} seeds, 95 % interval over sessions ({kind})",
        "",
        _what_tests_tell(results),
        "",
        "| | " + " | ".join(heads) + " |",
        "|---" * (1 + len(fractions)) + "|",
    ]
    for arm, by_fraction in results["arms"].items():
        lines.append(_line(arm, [summary(over_seeds(by_fraction.get(text, {}))) for text in fractions]))
    for name, by_fraction in results["baselines"].items():
        lines.append(_line(f"*{name}*", [summary(by_fraction.get(text, {})) for text in fractions]))
    lines += ["", *_comparisons(results["comparisons"]), "", *_reaching(results)]
    lines += _endings(results.get("endings", []), results.get("stop"))
    return "\n".join(lines) + "\n"


def _what_tests_tell(results: Mapping[str, Any]) -> str:
    subjects = len(set(results.get("subjects", {}).values()))
    if not subjects:
        return (
            "Intervals and tests are over these sessions, given this pretrained model: they do not tell what another "
            "pretraining would give."
        )
    return (
        f"Intervals and p are over sessions, as if these were independent. They are of {subjects} animals, and "
        "sessions of one share it and a pretrained model, so p is too small where animals differ: see in how many of "
        "them the mean is better."
    )


def _comparisons(comparisons: Sequence[Mapping[str, Any]]) -> list[str]:
    pooled = any("subjects" in one for one in comparisons)
    lines = [
        "| data | better | than | difference | by seed | p | sessions won |" + (" animals won |" if pooled else ""),
        "|---" * (8 if pooled else 7) + "|",
    ]
    for one in comparisons:
        interval = "" if one["low"] is None else f" ({one['low']:.4f} to {one['high']:.4f})"
        p = "" if one["p"] is None else f"{one['p']:.2g}"
        seeds = ", ".join("–" if value is None else f"{value:.4f}" for value in one["by_seed"])
        lines.append(
            f"| {_percent(one['fraction'])} | {one['better_row']} | {one['than_row']} | "
            f"{one['difference']:.4f}{interval} | {seeds} | {p} | {one['wins']} of {one['sessions']} |"
            + (f" {one['subjects_won']} of {one['subjects']} |" if pooled else "")
        )
    return lines


def _reaching(results: Mapping[str, Any]) -> list[str]:
    target, least = results["reaches_what"], min(results["fractions"])
    lines = []
    for arm, share in results["reaches"].items():
        with_what = "none of the fractions"
        if share is not None:
            with_what = f"{'at most ' if share <= least else ''}{100 * share:.0f} % of the data"
        best = f"{target['arm']} ({target['value']:.4f}, the best from scratch)"
        lines.append(f"{arm} reaches what {best} reaches on {_percent(target['fraction'])} with {with_what}")
    return lines


def _endings(endings: Sequence[Mapping[str, Any]], stop: Mapping[str, Any] | None) -> list[str]:
    """A line an arm: where its trainings ended, over fractions, seeds and models."""
    if not endings or stop is None:
        return []
    lines = [
        "",
        f"Every training was scored on its valid split every {stop['every']} steps, and stopped after "
        f"{stop['patience']} scores without a new best; the weights of its best step are kept, at the end of its steps "
        "the last ones unless others were better by more than the standard error of the difference.",
        "",
    ]
    for arm in dict.fromkeys(one["arm"] for one in endings):
        parts = []
        for stage in dict.fromkeys(one["stage"] for one in endings if one["arm"] == arm):
            own = [one for one in endings if (one["arm"], one["stage"]) == (arm, stage)]
            kept, steps = (_range([one[key] for one in own]) for key in ("kept_step", "steps"))
            early = sum(one["stopped_at"] is not None for one in own)
            last = sum(one["best_step"] == one["steps"] for one in own)
            part = (
                f"{stage} kept step {kept} of {steps}; {early} of {len(own)} stopped early, the others ran to the end"
            )
            parts.append(part + (f" ({last} were best at their last step)" if last else ""))
        lines.append(f"- {arm}: {'. '.join(parts)}")
    return lines


def _line(name: str, cells: Sequence[tuple[float, float, float] | None]) -> str:
    shown = ["" if cell is None else f"{cell[0]:.4f} ({cell[1]:.4f} to {cell[2]:.4f})" for cell in cells]
    return f"| {name} | " + " | ".join(shown) + " |"


def _percent(share: float) -> str:
    return f"{100 * share:g} %"


def _trials(by_session: Mapping[str, int]) -> str:
    return _range(list(by_session.values()))


def _range(counts: Sequence[int]) -> str:
    if not counts:
        return ""
    least, most = min(counts), max(counts)
    return str(least) if least == most else f"{least} to {most}"
