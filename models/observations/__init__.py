"""Observation models: from what the decoder says about a unit's bin to loss, mean and samples.

`observation_for(name, modality)` gives one of three small classes with the same methods (`base.Observation`).
"""

from typing import Literal

from neurochorus.models.observations.base import Observation, RateName
from neurochorus.models.observations.gaussian import Gaussian
from neurochorus.models.observations.negative_binomial import NegativeBinomial
from neurochorus.models.observations.poisson import Poisson

ObservationName = Literal["auto", "poisson", "negative_binomial", "gaussian"]

__all__ = [
    "Gaussian",
    "NegativeBinomial",
    "Observation",
    "ObservationName",
    "Poisson",
    "RateName",
    "observation_for",
]


def observation_for(name: str, modality: str, rate: RateName = "exp") -> Observation:
    """The observation model called `name` for signals of `modality`; auto: Poisson for spikes, Gaussian otherwise.

    `rate`: what turns the decoder's output into the mean count. Raises ValueError for a name or modality that does
    not exist, and for a combination that makes no sense.
    """
    match modality, name:
        case "spikes", "auto" | "poisson":
            return Poisson(rate)
        case "spikes", "negative_binomial":
            return NegativeBinomial(rate)
        case "continuous", "auto" | "gaussian" if rate == "exp":
            return Gaussian()
        case "continuous", "auto" | "gaussian":
            raise ValueError(f"autoencoder.rate: '{rate}' is for counts; the signal is continuous, remove it")
        case "spikes", "gaussian":
            raise ValueError("autoencoder.observation: 'gaussian' is for continuous signals, not for spikes; use auto")
        case "continuous", "poisson" | "negative_binomial":
            raise ValueError(f"autoencoder.observation: '{name}' is for spike counts, not for other signals; use auto")
        case "spikes" | "continuous", _:
            raise ValueError(
                f"autoencoder.observation is '{name}'; expected auto, poisson, negative_binomial or gaussian"
            )
        case _:
            raise ValueError(f"modality is '{modality}'; expected 'spikes' or 'continuous'")
