"""Starting a run from the weights of an earlier one (run.init), with a new optimizer, at step 0.

The weights may lie in a model directory, in a checkpoint, or in a run directory: its export, or else its newest
checkpoint. Statistics of the data (buffers) are not taken over: they are those of this run's data.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from neurochorus.data_shards.manifest import SessionEntry
from neurochorus.data_shards.registry import SessionRows
from neurochorus.data_shards.settings import settings_to_dict
from neurochorus.models import ModelConfig, NeuralModel, load
from neurochorus.pretrain.fingerprint import flattened, setting_differences
from neurochorus.pretrain.position import COMPLETE, complete_checkpoints, read_position
from neurochorus.pretrain.saved_state import WEIGHT, SavedState

PARTS = ("autoencoder", "dynamics")
WEIGHTS = "model.safetensors"


@dataclass(frozen=True)
class InitialWeights:
    """Weights of one or both parts of a model, and what they were trained as."""

    path: Path
    parts: dict[str, dict[str, Tensor]]
    model_settings: dict[str, Any]
    """Dotted name -> value."""
    units: dict[str, str]
    """Session -> hash of its units, in the order of the model's rows."""

    def refuse_another(self, config: ModelConfig, sessions: Iterable[SessionEntry | SessionRows]) -> None:
        """Raise ValueError when they are of a model with other settings or sessions than those of a run."""
        problems = setting_differences(self.model_settings, _named(config), where="there")
        units = {session.session_id: session.unit_hash for session in sessions}
        if list(units.items()) != list(self.units.items()):
            odd = sorted(name for name in units.keys() | self.units if units.get(name) != self.units.get(name))
            problems.append(f"sessions: {', '.join(odd[:5]) or 'their order'} differ; launch/finetune.py adds sessions")
        if problems:
            raise ValueError(f"run.init {self.path}: is of another model:\n  - " + "\n  - ".join(problems))

    @torch.no_grad()
    def give(self, model: NeuralModel, parts: Iterable[str] = PARTS) -> None:
        """Put those of the named parts, as far as they are here, into a model."""
        for part in parts:
            for name, weight in self.parts.get(part, {}).items():
                getattr(model, part).get_parameter(name).copy_(weight)


def initial_weights(path: Path) -> InitialWeights:
    """Read the weights at a path. Raises ValueError when there are none, or the files are damaged."""
    if (path / COMPLETE).is_file():
        return _of_checkpoint(path)
    for model in (path, path / "export"):
        if (model / WEIGHTS).is_file():
            return _of_model(model)
    for stage in ("joint", "dynamics", "autoencoder"):
        for checkpoint in reversed(complete_checkpoints(path / "checkpoints" / stage)):
            return _of_checkpoint(checkpoint)
    raise ValueError(f"run.init {path}: expected a model directory, a checkpoint, or a run directory that holds one")


def _of_model(path: Path) -> InitialWeights:
    model = load(path)
    parts = {part: {name: p.detach() for name, p in getattr(model, part).named_parameters()} for part in PARTS}
    units = {session.session_id: session.unit_hash for session in model.registry.sessions}
    return InitialWeights(path, parts, _named(model.config), units)


def _of_checkpoint(path: Path) -> InitialWeights:
    """Weights of the stage of a checkpoint, and of the finished autoencoder that it stood on."""
    saved, fingerprint, stage = SavedState(path), read_position(path).fingerprint, path.parent.name
    prefix = "trained.dynamics." if stage == "joint" else "trained."
    weights = {name.removeprefix(prefix): saved.read(name, WEIGHT) for name in saved.names}
    settings = {name: value for name, value in fingerprint["settings"].items() if name.startswith("model.")}
    units = {name: session["units"] for name, session in fingerprint["sessions"].items()}
    if stage == "autoencoder":
        return InitialWeights(path, {"autoencoder": weights}, settings, units)
    finished = path.parents[2] / "autoencoder"
    if not (finished / WEIGHTS).is_file():
        raise ValueError(f"run.init {path}: the autoencoder that it stands on is not at {finished}")
    return InitialWeights(path, {**_of_model(finished).parts, "dynamics": weights}, settings, units)


def _named(config: ModelConfig) -> dict[str, Any]:
    """Dotted name -> value of a model's settings."""
    return dict(flattened({"model": settings_to_dict(config)}))
