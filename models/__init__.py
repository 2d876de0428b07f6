"""Models: batches in, latents, rates and samples out.

model = load("runs/demo/export")
rollout = model.rollout(model.context("fox_s1", counts), horizon=20, samples=32)
"""

from neurochorus.models.autoencoder import Autoencoder, AutoencoderConfig
from neurochorus.models.backbones.transformer import TransformerConfig
from neurochorus.models.dynamics import (
    CausalDynamics,
    CovariateConfig,
    Dynamics,
    DynamicsConfig,
    JointConfig,
    JointPhase,
    LatentSequence,
)
from neurochorus.models.export import load, read_training, save
from neurochorus.models.heads import Head, HeadName, HeadsConfig, build_head
from neurochorus.models.imputation import Imputation, ImputationSettings
from neurochorus.models.model import ModelConfig, NeuralModel, UnitStatistics
from neurochorus.models.rollout import Rollout
from neurochorus.models.sampling import SAMPLING_SETTINGS, set_sampling
from neurochorus.models.whitening import LatentMoments, Whitening

__all__ = [
    "SAMPLING_SETTINGS",
    "Autoencoder",
    "AutoencoderConfig",
    "CausalDynamics",
    "CovariateConfig",
    "Dynamics",
    "DynamicsConfig",
    "Head",
    "HeadName",
    "HeadsConfig",
    "Imputation",
    "ImputationSettings",
    "JointConfig",
    "JointPhase",
    "LatentMoments",
    "LatentSequence",
    "ModelConfig",
    "NeuralModel",
    "Rollout",
    "TransformerConfig",
    "UnitStatistics",
    "Whitening",
    "build_head",
    "load",
    "read_training",
    "save",
    "set_sampling",
]
