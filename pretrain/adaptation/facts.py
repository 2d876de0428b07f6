"""What an export says of its adaptation: to config.json, and through it to the model card."""

from typing import Any

from neurochorus.pretrain.adaptation.enough_data import data_warnings, minutes_of, windows_of
from neurochorus.pretrain.adaptation.modes import Mode
from neurochorus.pretrain.adaptation.replay import ReplayedData
from neurochorus.pretrain.config import RunConfig
from neurochorus.pretrain.early_stopping import EarlyStopping
from neurochorus.pretrain.training_data import TrainingData

BASE_WEIGHTS = "base_weights"


def adaptation_facts(
    base: str,
    base_weights: str,
    base_sessions: int,
    mode: Mode,
    config: RunConfig,
    data: TrainingData,
    endings: dict[str, EarlyStopping],
    replay_rows: bool,
) -> dict[str, Any]:
    """What was adapted to what, as plain values. `base_weights`: hash of the base model's weights."""
    windows, minutes = windows_of(config, data), minutes_of(config, data)
    replayed = data.replayed if isinstance(data, ReplayedData) else []
    return {
        "base": base,
        BASE_WEIGHTS: base_weights,
        "base_sessions": base_sessions,
        "mode": mode.name,
        "numbers": mode.numbers(),
        "sessions": {
            entry.session_id: {
                "subject": entry.subject_id,
                "units": len(entry.units),
                "train_windows": windows[entry.session_id],
                "train_minutes": round(minutes[entry.session_id], 2),
            }
            for entry in data.entries
        },
        "warnings": data_warnings(config, data),
        "replayed": replayed,
        "replay_share": data.share if isinstance(data, ReplayedData) else 0.0,
        "replay_trains_rows": replay_rows and bool(replayed),
        "steps": {stage: getattr(config, stage).steps for stage in ("autoencoder", "dynamics")},
        "early_stop": {stage: ending.facts() for stage, ending in endings.items() if ending.begun},
        "old_sessions_unchanged": mode.name == "rows" and not (replay_rows and replayed),
    }
