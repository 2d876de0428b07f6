"""Stage 2, the dynamics: how whitened latents go on."""

from neurochorus.models.dynamics.causal import CausalDynamics
from neurochorus.models.dynamics.config import DynamicsConfig
from neurochorus.models.dynamics.sequence import LatentSequence

__all__ = ["CausalDynamics", "DynamicsConfig", "LatentSequence"]
