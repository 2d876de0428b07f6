"""A made-up data set with something to learn, a small model of two of its sessions, and settings to adapt it."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from neurochorus.data_shards.corpus import Corpus
from neurochorus.data_shards.recording import Recording
from neurochorus.data_shards.registry import UnitRegistry
from neurochorus.data_shards.settings import parse_settings
from neurochorus.data_shards.writer import write_dataset
from neurochorus.models import (
    AutoencoderConfig,
    DynamicsConfig,
    ModelConfig,
    NeuralModel,
    TransformerConfig,
    UnitStatistics,
    save,
)
from neurochorus.models.heads import HeadsConfig
from neurochorus.models.heads.energy import EnergyHeadConfig
from neurochorus.pretrain.finetuning import FinetuneConfig
from tests.data_shards.conftest import small_recording

OLD, NEW = ("a1", "b1"), ("c1", "b2")
UNITS = {"a1": 5, "b1": 8, "c1": 6, "b2": 4}


def driven_recording(session_id: str, trials: int = 40, units: int | None = None, **changes: Any) -> Recording:
    """Counts that follow one slow latent, each unit with a loading of its own; the letter is the subject."""
    units, seed = units or UNITS.get(session_id, 6), sum(map(ord, session_id))
    made = small_recording(session_id, f"subject_{session_id[0]}", units, trials, seed, **changes)
    generator, steps = np.random.default_rng(seed), np.zeros(len(made.signal_TC))
    for bin_ in range(1, len(steps)):
        steps[bin_] = 0.9 * steps[bin_ - 1] + generator.normal(0, 0.45)
    loading = generator.choice([-1.0, 1.0], units) * generator.uniform(0.5, 1.2, units)
    if made.modality != "spikes":
        return made
    counts = generator.poisson(0.6 * np.exp(steps[:, None] * loading)).clip(max=255).astype(np.uint8)
    return replace(made, signal_TC=counts)


def write_base(folder: Path) -> None:
    """`folder/data` with all sessions, and `folder/base`, an untrained model of the old ones."""
    write_dataset([driven_recording(name) for name in (*OLD, *NEW)], folder / "data", name="small", sample_bins=12)
    entries = [Corpus(folder / "data").session(name) for name in OLD]
    torch.manual_seed(0)
    encoder = TransformerConfig(width=16, blocks=2, heads=2, dropout=0.0)
    model = NeuralModel(
        ModelConfig(
            autoencoder=AutoencoderConfig(latents=3, encoder=encoder, future_weights={1: 0.5}, unit_dropout=0.2),
            dynamics=DynamicsConfig(transformer=encoder),
            heads=HeadsConfig(energy=EnergyHeadConfig(width=16, blocks=1)),
        ),
        UnitRegistry.from_sessions(entries),
        UnitStatistics.of(entries),
    )
    save(model, folder / "base", {"sessions": list(OLD), "forecast": {"context_bins": 8, "horizon_bins": 4}})


def tuning(folder: Path, name: str = "tuned", **sections: Any) -> FinetuneConfig:
    """Settings of a short adaptation to session c1."""
    values: dict[str, Any] = {
        "model": str(folder / "base"),
        "run": {"dir": str(folder / name)},
        "data": {"path": str(folder / "data"), "sessions": ["c1"], "workers": 0},
        "autoencoder": {"steps": 4},
        "dynamics": {"steps": 3},
        "train": {"global_batch": 8, "micro_batch": 4, "precision": "fp32", "log_every": 1},
        "checkpoint": {"every": 50},
        "wandb": {"mode": "disabled"},
    }
    return parse_settings(FinetuneConfig, merged_settings(values, sections), "test")


def merged_settings(values: dict[str, Any], sections: dict[str, Any]) -> dict[str, Any]:
    for name, section in sections.items():
        both = isinstance(section, dict) and isinstance(values.get(name), dict)
        values[name] = {**values[name], **section} if both else section
    return values
