"""Heads: the distribution of the next latent given the hidden state, swapped by name."""

from dataclasses import field
from typing import Literal

from neurochorus.data_shards.settings import settings
from neurochorus.models.heads.base import Generators, Head
from neurochorus.models.heads.energy import EnergyHead, EnergyHeadConfig
from neurochorus.models.heads.flow import FlowHead, FlowHeadConfig
from neurochorus.models.heads.gaussian import GaussianHead, GaussianHeadConfig
from neurochorus.models.heads.langevin import LangevinHead, LangevinHeadConfig
from neurochorus.models.heads.scoring_rules import energy_score_loss

HeadName = Literal["energy", "flow", "gaussian", "langevin"]


@settings
class HeadsConfig:
    """Settings of each head; only the one that `model.head` names is built."""

    energy: EnergyHeadConfig = field(default_factory=EnergyHeadConfig)
    flow: FlowHeadConfig = field(default_factory=FlowHeadConfig)
    gaussian: GaussianHeadConfig = field(default_factory=GaussianHeadConfig)
    langevin: LangevinHeadConfig = field(default_factory=LangevinHeadConfig)


def build_head(name: str, config: HeadsConfig, hidden: int, latents: int) -> Head:
    """The head called `name` for hidden states of width `hidden`. Raises ValueError for another name."""
    match name:
        case "energy":
            return EnergyHead(config.energy, hidden, latents)
        case "flow":
            return FlowHead(config.flow, hidden, latents)
        case "gaussian":
            return GaussianHead(config.gaussian, hidden, latents)
        case "langevin":
            return LangevinHead(config.langevin, hidden, latents)
        case _:
            raise ValueError(f"head '{name}' is unknown; valid: energy, flow, gaussian, langevin")


__all__ = [
    "EnergyHead",
    "EnergyHeadConfig",
    "FlowHead",
    "FlowHeadConfig",
    "GaussianHead",
    "GaussianHeadConfig",
    "Generators",
    "Head",
    "HeadName",
    "HeadsConfig",
    "LangevinHead",
    "LangevinHeadConfig",
    "build_head",
    "energy_score_loss",
]
