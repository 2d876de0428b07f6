"""The part of a model card that says what was adapted to what."""

from collections.abc import Mapping
from typing import Any

_MOVED = {
    "rows": "rows of the new sessions; everything else is the base model's, bit for bit",
    "lora": "rows of the new sessions, and low-rank updates of linear layers, which were added to the weights",
    "unfreeze": "rows of the new sessions, and the trunk from its output downwards",
    "full": "rows of the new sessions, and the whole trunk",
}


def adaptation_section(facts: Mapping[str, Any]) -> str:
    """Markdown, from the `adaptation` facts of an export (pretrain/adaptation/facts.py); ends with an empty line."""
    numbers = ", ".join(f"{name} {value}" for name, value in facts["numbers"].items())
    sessions = "\n".join(
        f"| {name} | {one['subject']} | {one['units']} | {one['train_windows']} | {one['train_minutes']:g} |"
        for name, one in facts["sessions"].items()
    )
    replayed = facts["replayed"]
    replay = "none"
    if replayed:
        rows = "their rows were trained too" if facts["replay_trains_rows"] else "their rows stayed as they were"
        replay = (
            f"{facts['replay_share']:.0%} of each batch from {len(replayed)} sessions ({_listed(replayed)}); {rows}"
        )
    little = "".join(f"\n**Little data:** {line}\n" for line in facts.get("warnings", []))
    steps = ", ".join(f"{stage} {count}" for stage, count in facts["steps"].items())
    old = (
        "Outputs for the sessions of the base model are unchanged, bit for bit."
        if facts["old_sessions_unchanged"]
        else "**Results on the sessions of the base model may have changed: measure them again before using them.**"
    )
    return f"""## Adaptation

- base model: {facts["base"]} ({facts["base_sessions"]} sessions, weights {facts["base_weights"]})
- mode: {facts["mode"]}{f" ({numbers})" if numbers else ""}: {_MOVED[facts["mode"]]}
- replay: {replay}
- steps: {steps}
- early stop: {_early_stop(facts["early_stop"])}

| new session | subject | units | train windows | minutes |
|---|---|---|---|---|
{sessions}
{little}
{old}

"""


def _early_stop(stages: Mapping[str, Mapping[str, Any]]) -> str:
    parts = []
    for stage, ending in stages.items():
        error = "" if ending["standard_error"] is None else f" ± {ending['standard_error']:.2g}"
        stopped = f"stopped at step {ending['stopped_at']}, " if ending["stopped_at"] is not None else ""
        parts.append(
            f"{stage} {stopped}weights of step {ending['kept_step']} kept (best validation loss "
            f"{ending['validation_loss']:.5g}{error} over {ending['validation_windows']} windows)"
        )
    return "; ".join(parts) or "none"


def _listed(names: list[str]) -> str:
    return ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
