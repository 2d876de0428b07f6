"""Stage 2, the dynamics: how whitened latents go on."""

from collections.abc import Mapping

from neurochorus.models.dynamics.base import Dynamics
from neurochorus.models.dynamics.causal import CausalDynamics
from neurochorus.models.dynamics.config import DynamicsConfig
from neurochorus.models.dynamics.covariates import CovariateConfig
from neurochorus.models.dynamics.joint import JointConfig, JointPhase
from neurochorus.models.dynamics.sequence import LatentSequence
from neurochorus.models.heads import HeadsConfig


def build_dynamics(
    config: DynamicsConfig,
    head: str,
    heads: HeadsConfig,
    latents: int,
    sessions: int,
    subjects: int,
    covariates: Mapping[str, int] | None = None,
) -> Dynamics:
    """The dynamics of `config.order`; `covariates`: number of columns of each one that the settings name."""
    match config.order:
        case "causal":
            return CausalDynamics(config, head, heads, latents, sessions, subjects, covariates)
        case "masked":
            from neurochorus.models.dynamics.masked import MaskedDynamics

            return MaskedDynamics(config, head, heads, latents, sessions, subjects, covariates or {})
        case "diffusion":
            from neurochorus.models.dynamics.diffusion import DiffusionDynamics

            return DiffusionDynamics(config, head, heads, latents, sessions, subjects, covariates or {})
        case _:
            raise ValueError(f"order '{config.order}' is unknown; valid: causal, masked, diffusion")


__all__ = [
    "CausalDynamics",
    "CovariateConfig",
    "Dynamics",
    "DynamicsConfig",
    "JointConfig",
    "JointPhase",
    "LatentSequence",
    "build_dynamics",
]
