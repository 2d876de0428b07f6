"""Settings that only sampling reads, changed on a trained model: the solver's steps, say, or the order of unmasking."""

from collections.abc import Iterable
from typing import Any

from neurochorus.data_shards.settings import apply_overrides, parse_settings, settings_to_dict
from neurochorus.models.model import ModelConfig, NeuralModel

SAMPLING_SETTINGS = (
    "dynamics.diffusion.sampler",
    "dynamics.diffusion.sampling_steps",
    "dynamics.masked.steps",
    "dynamics.masked.order",
    "dynamics.masked.schedule",
    "dynamics.masked.overlap",
    "dynamics.usual_share",
    "heads.energy.temperature_acts_on",
    "heads.flow.steps",
    "heads.flow.solver",
    "heads.langevin.levels",
    "heads.langevin.steps",
    "heads.langevin.predictor",
    "heads.langevin.step_size",
    "heads.langevin.denoise",
)
"""Paths below `model`; the other settings are part of the weights."""


def set_sampling(model: NeuralModel, overrides: Iterable[str]) -> None:
    """Change settings of sampling in place, such as `heads.flow.steps=4`.

    Raises ValueError for a setting that is not in SAMPLING_SETTINGS, or is of another head or order than the model's,
    and SettingsError for a value that does not fit.
    """
    assignments = list(overrides)
    for assignment in assignments:
        _refuse_what_is_not_read(model, assignment.partition("=")[0])
    values = apply_overrides(settings_to_dict(model.config), assignments)
    config = parse_settings(ModelConfig, values, "settings of sampling")
    model.config = config
    model.dynamics.config = config.dynamics
    head: Any = getattr(model.dynamics, "head", None)
    if head is not None and hasattr(head, "config"):
        head.config = getattr(config.heads, head.name)


def _refuse_what_is_not_read(model: NeuralModel, path: str) -> None:
    if path not in SAMPLING_SETTINGS:
        raise ValueError(
            f"sampling: {path!r} cannot be changed on a trained model; can be: {', '.join(SAMPLING_SETTINGS)}"
        )
    section, name, *rest = path.split(".")
    if not rest:  # every model reads it
        return
    own = model.config.head if section == "heads" else model.config.dynamics.order
    if name != own:
        what = "head" if section == "heads" else "order"
        raise ValueError(f"sampling: {path} is not read by this model, whose {what} is {own}")
