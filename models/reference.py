"""How the latents of a trained model look from outside: what rows of a new session are aligned to.

The read-outs of known units see some directions of the latents; scaled to unit variance these are the factors u. Counts
of a known session tell of its factors through its read-out rows, without the encoder: P y with y the Pearson residuals
(counts - rate) / sqrt(rate), or z-scores, and P the least-squares inverse of the rows. A new session has factors of its
own by the same kind of estimate, known up to a rotation; statistics here are those that the rotation is found by.
Products are of different bins only, between which the noise of counts is independent, so noise adds nothing to them.

L latents, K factors, D read-in width, T bins of a sample, G lags.
"""

from dataclasses import dataclass, fields
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

REFERENCE_FILE = "reference.safetensors"


@dataclass(frozen=True)
class LatentReference:
    """Statistics of the factors on the train split of pretraining; float64 tensors."""

    from_latent_LK: Tensor
    "u = (decoded latent - latent_mean) @ this."
    latent_mean_L: Tensor
    "Mean of the latents as the read-out rows see them."
    spectrum_L: Tensor
    "Share of each direction in the log rates' variance, the first K of which are the factors'."
    lags_G: Tensor
    "Lags in bins, from 1."
    covariance_GKK: Tensor
    "E[u_t u_{t + lag}'], not symmetric."
    third_KKK: Tensor
    "E[u_i(t) u_j(t + s) u_k(t + 2 s)] for the spacing s."
    third_spacing: Tensor
    trajectory_TK: Tensor
    "Mean by bin of the sample; zero where samples start at no set time."
    trajectory_count_T: Tensor
    "Samples in each of them."
    hidden_mean_D: Tensor
    "Mean of what the encoder reads, session bias included."
    hidden_response_DK: Tensor
    "How it moves with the factors."

    def save(self, folder: Path) -> None:
        values = {field.name: getattr(self, field.name).double().contiguous() for field in fields(self)}
        save_file(values, folder / REFERENCE_FILE)

    @classmethod
    def load(cls, folder: Path, latents: int, width: int) -> "LatentReference | None":
        """Read it; None where the model has none. Raises ValueError when the file is damaged or of another model."""
        file = folder / REFERENCE_FILE
        if not file.is_file():
            return None
        try:
            values = load_file(file)
        except SafetensorError as error:
            raise ValueError(f"{file}: not a readable safetensors file ({error}); copy or export it again") from None
        names = {field.name for field in fields(cls)}
        if values.keys() != names:
            odd = sorted(values.keys() ^ names)
            raise ValueError(f"{file}: expected the tensors of this version; {', '.join(odd)} differ: leave it out")
        found = (len(values["from_latent_LK"]), len(values["hidden_mean_D"]))
        if found != (latents, width):
            raise ValueError(
                f"{file}: is of a model of {found[0]} latents and width {found[1]}; expected {latents} and {width}"
            )
        if not all(bool(torch.isfinite(value).all()) for value in values.values()):
            raise ValueError(f"{file}: holds numbers that are not finite; export the model again, or leave it out")
        return cls(**values)
