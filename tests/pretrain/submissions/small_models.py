"""Untrained models of one session for the tests of submissions."""

from dataclasses import replace

import torch

from neurochorus.data_shards.registry import UnitRegistry
from neurochorus.models import (
    AutoencoderConfig,
    DynamicsConfig,
    ModelConfig,
    NeuralModel,
    TransformerConfig,
    UnitStatistics,
)
from tests.models.conftest import entry


def model_of(
    session_id: str, units: int, bin_s: float, unit_ids: list[str] | None = None, **settings: object
) -> NeuralModel:
    """A model whose every part has some effect."""
    torch.manual_seed(0)
    made = replace(entry(session_id, "a", units), bin_s=bin_s)
    if unit_ids is not None:
        made = replace(made, units=type(made.units)({"unit_id": unit_ids, "region": [""] * units}))
    made = replace(made, unit_mean=made.unit_mean / made.unit_mean.max() * 0.4)
    transformer = TransformerConfig(width=16, blocks=1, heads=2)
    config = ModelConfig(
        head="gaussian",
        autoencoder=AutoencoderConfig(**{"latents": 4, "encoder": transformer, **settings}),  # type: ignore[arg-type]
        dynamics=DynamicsConfig(transformer=transformer),
    )
    model = NeuralModel(config, UnitRegistry.from_sessions([made]), UnitStatistics.of([made]))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model.eval()
