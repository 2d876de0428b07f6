"""What a run must have in common with a checkpoint to continue it, and in plain words where the two differ.

The number of ranks, the ZeRO stage and everything that only says how a run is watched or saved are not in it.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

from torch import nn

from neurochorus.data_shards.settings import settings_to_dict
from neurochorus.pretrain.config import RunConfig
from neurochorus.pretrain.training_data import TrainingData

Fingerprint = dict[str, Any]
"""`settings` (dotted name -> value), `sessions` (id -> what is in it), and hashes by their names; plain JSON values."""

BASIS = "weights it stands on"
FREE_OF_TRAIN = {"activation_checkpointing", "compile", "hang_minutes", "log_every", "max_hours", "max_skipped_steps"}
"""Settings of `train` that move no weight, or only by rounding."""
OF_DATA = {"bin_s", "window_bins", "mixture", "alpha", "weights", "augment"}
LISTED = 8
"""Differences of one kind that are written out."""


def run_fingerprint(
    config: RunConfig, data: TrainingData, stage: str, further: Mapping[str, Any] | None = None
) -> Fingerprint:
    """The fingerprint of one stage of a run; `further`: settings besides those of `config` that must not change."""
    thinning = () if config.data.fraction == 1 else ("fraction", "fraction_seed")
    train = {k: v for k, v in settings_to_dict(config.train).items() if k not in FREE_OF_TRAIN}
    chosen = {
        "model": settings_to_dict(config.model),
        stage: settings_to_dict(getattr(config, stage)),
        "train": train,
        "data": {k: v for k, v in settings_to_dict(config.data).items() if k in OF_DATA or k in thinning},
        "run": {"seed": config.run.seed, "init": config.run.init},
        **(further or {}),
    }
    return {
        "settings": dict(flattened(chosen)),
        "sessions": data.hashes,
        "data": data.corpus.hash(),
        "order of samples": data.plan(config, stage).fingerprint(),
    }


def flattened(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Nested settings as (dotted name, value)."""
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from flattened(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def weights_hash(*modules: nn.Module) -> str:
    """16 hex digits that change with any weight or buffer of the modules."""
    digest = hashlib.sha256()
    for module in modules:
        for name, value in module.state_dict().items():
            digest.update(name.encode() + value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def differences(saved: Mapping[str, Any], current: Fingerprint) -> list[str]:
    """In what a run differs from what was saved, a line each; none when it may be continued."""
    if not isinstance(saved.get("settings"), Mapping) or not isinstance(saved.get("sessions"), Mapping):
        return ["it was written by another version of neurochorus, which did not note its settings"]
    found = setting_differences(saved["settings"], current["settings"])
    sessions = _session_differences(saved["sessions"], current["sessions"])
    hashes = [name for name in current if name not in ("settings", "sessions") and saved.get(name) != current[name]]
    for name in hashes:
        explained = (name == "data" and sessions) or (name == "order of samples" and (found or sessions))
        if not explained:
            found.append(f"{name}: {saved.get(name)} in the checkpoint, {current[name]} now")
    return found + sessions


def setting_differences(
    saved: Mapping[str, Any], current: Mapping[str, Any], where: str = "in the checkpoint"
) -> list[str]:
    """Settings (dotted name -> value) that differ, a line each."""
    nothing = object()

    def shown(value: Any) -> str:
        return "not there" if value is nothing else json.dumps(value)

    lines = []
    for name in [*current, *(name for name in saved if name not in current)]:
        before, now = saved.get(name, nothing), current.get(name, nothing)
        if before != now:
            lines.append(f"{name}: {shown(before)} {where}, {shown(now)} now")
    return lines


def _session_differences(saved: Mapping[str, Any], current: Mapping[str, Any]) -> list[str]:
    changed = [name for name in current if name in saved and saved[name] != current[name]]
    other_units = [name for name in changed if saved[name]["units"] != current[name]["units"]]
    kinds = {
        "not in the checkpoint's data": [name for name in current if name not in saved],
        "missing now": [name for name in saved if name not in current],
        "with other units now": other_units,
        "with other contents now": [name for name in changed if name not in other_units],
    }
    return [f"sessions {kind}: {_listed(names)}" for kind, names in kinds.items() if names]


def _listed(names: list[str]) -> str:
    more = f", ... ({len(names)} in all)" if len(names) > LISTED else ""
    return ", ".join(names[:LISTED]) + more
