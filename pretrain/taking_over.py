"""Starting a run from parts of another model: its autoencoder, and the dynamics on it."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from neurochorus.data_shards.manifest import SessionEntry
from neurochorus.data_shards.seeds import seed_number
from neurochorus.data_shards.settings import settings_to_dict
from neurochorus.models import SAMPLING_SETTINGS, JointConfig, NeuralModel, load
from neurochorus.models.model import ModelConfig
from neurochorus.pretrain.config import RunConfig
from neurochorus.pretrain.fingerprint import flattened, setting_differences
from neurochorus.pretrain.width_transfer import transfer_width


def adopt_autoencoder(config: RunConfig, entries: Sequence[SessionEntry]) -> NeuralModel:
    """A model with new dynamics on the autoencoder of another export of the same sessions."""
    path = config.autoencoder.init
    assert path is not None
    torch.manual_seed(seed_number(f"{config.run.seed}/weights"))
    source = load(path)
    if source.config.autoencoder != config.model.autoencoder:
        raise ValueError(
            f"autoencoder.init {path}: its autoencoder settings differ from model.autoencoder of this run; copy them"
        )
    known, wanted = [s.session_id for s in source.registry.sessions], [entry.session_id for entry in entries]
    if sorted(known) != sorted(wanted):
        odd = sorted(set(known) ^ set(wanted))
        raise ValueError(
            f"autoencoder.init {path}: its sessions are not those of this run ({', '.join(odd[:5])} differ): "
            "choose the same with data.sessions, or add sessions with launch/finetune.py"
        )
    for entry in entries:
        source.registry.rows(entry)
    model = NeuralModel(config.model, source.registry)
    transfer_width(model, config.train.base_width)
    take_autoencoder(model, source)
    return model


def take_autoencoder(model: NeuralModel, source: NeuralModel) -> None:
    """Give `model` the trained autoencoder of `source`, and the whitening that belongs to it."""
    model.autoencoder.load_state_dict(source.autoencoder.state_dict())
    model.whitening.load_state_dict(source.whitening.state_dict())
    model.reference = source.reference
    model.dynamics.increment_sd.copy_(source.whitening.increment_sd)


def take_dynamics(model: NeuralModel, path: str) -> None:
    """Give `model` the trained dynamics of another; how either samples may differ, and settings of a joint stage.

    Raises ValueError when the settings that belong to their weights differ.
    """
    source = load(path)
    problems = setting_differences(
        _of_trained_dynamics(source.config), _of_trained_dynamics(model.config), f"in {path}"
    )
    if problems:
        raise ValueError(
            f"dynamics.init {path}: its weights belong to other settings than those of this run; copy them:\n  - "
            + "\n  - ".join(problems)
        )
    model.dynamics.load_state_dict(source.dynamics.state_dict())


def _of_trained_dynamics(config: ModelConfig) -> dict[str, Any]:
    """Settings of dynamics and heads (dotted name -> value) but those of sampling and of a joint stage."""
    values = settings_to_dict(replace(config, dynamics=replace(config.dynamics, joint=JointConfig())))
    chosen = dict(flattened({name: values[name] for name in ("dynamics", "head", "heads")}))
    return {f"model.{name}": value for name, value in chosen.items() if name not in SAMPLING_SETTINGS}
