"""Small models of two sessions for the tests of this folder."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
import torch

from neurochorus.data_shards.manifest import SessionEntry
from neurochorus.data_shards.recording import unit_hash
from neurochorus.data_shards.registry import UnitRegistry
from neurochorus.data_shards.unit_columns import UnitColumns
from neurochorus.models import (
    AutoencoderConfig,
    DynamicsConfig,
    ModelConfig,
    NeuralModel,
    TransformerConfig,
    UnitStatistics,
)
from neurochorus.models.backbones import GRUConfig


def entry(session_id: str, subject_id: str, units: int, modality: str = "spikes") -> SessionEntry:
    ids = [f"u{number}" for number in range(units)]
    return SessionEntry(
        session_id=session_id,
        subject_id=subject_id,
        modality=modality,  # type: ignore[arg-type]
        bin_s=0.01,
        unit_hash=unit_hash(ids),
        units=UnitColumns({"unit_id": ids, "region": [""] * units}),
        covariates={},
        unit_mean=0.1 + 0.05 * np.arange(units),
        unit_sd=np.full(units, 0.4),
        train_bins=1000,
        provenance={},
    )


def small_model(
    head: str = "energy",
    modality: str = "spikes",
    seed: int = 0,
    autoencoder: Mapping[str, object] | None = None,
    **dynamics: object,
) -> NeuralModel:
    """An untrained model of sessions a_s1 (5 units) and b_s1 (8 units) whose every part has some effect."""
    torch.manual_seed(seed)
    entries = [entry("a_s1", "a", 5, modality), entry("b_s1", "b", 8, modality)]
    transformer = TransformerConfig(width=16, blocks=2, heads=2)
    own = replace(transformer, attention_window=dynamics.pop("window", None))  # type: ignore[arg-type]
    config = ModelConfig(
        head=head,  # type: ignore[arg-type]
        autoencoder=AutoencoderConfig(**{"latents": 4, "encoder": transformer, **(autoencoder or {})}),  # type: ignore[arg-type]
        dynamics=DynamicsConfig(**{"transformer": own, "gru": GRUConfig(width=16), **dynamics}),  # type: ignore[arg-type]
    )
    model = NeuralModel(config, UnitRegistry.from_sessions(entries), UnitStatistics.of(entries))
    with torch.no_grad():  # zero-initialised outputs would hide what flows through them
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
        of_units = model.autoencoder
        for name in ("read_in_rows", "read_out_rows", "unit_offsets", "history_rows", "earlier_rows"):
            table = getattr(of_units, name)
            if table is not None:
                table.weight[0] = 0.0
    return model.eval()


@pytest.fixture
def counts() -> torch.Tensor:
    """Counts of session b_s1, (3 trials, 20 bins, 8 units)."""
    return torch.poisson(torch.full((3, 20, 8), 0.5), generator=torch.Generator().manual_seed(1))
