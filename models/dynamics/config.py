"""Settings of stage 2."""

from dataclasses import field
from typing import Literal

from neurochorus.data_shards.settings import at_least, settings
from neurochorus.models.backbones.gru import GRUConfig
from neurochorus.models.backbones.transformer import TransformerConfig
from neurochorus.models.dynamics.covariates import CovariateConfig
from neurochorus.models.dynamics.denoising import DiffusionConfig
from neurochorus.models.dynamics.joint import JointConfig
from neurochorus.models.dynamics.unmasking import MaskedConfig


@settings
class DynamicsConfig:
    order: Literal["causal", "masked", "diffusion"] = "causal"
    """causal: bin after bin; masked: in random order between bins that are known (the published EAG); diffusion: all
    bins of a window at once (LDNS, to compare with)."""
    backbone: Literal["transformer", "gru"] = "transformer"
    transformer: TransformerConfig = field(default_factory=lambda: TransformerConfig(blocks=4))
    gru: GRUConfig = field(default_factory=GRUConfig)
    masked: MaskedConfig = field(default_factory=MaskedConfig)
    diffusion: DiffusionConfig = field(default_factory=DiffusionConfig)
    joint: JointConfig = field(default_factory=JointConfig)
    target: Literal["increment", "level"] = "increment"
    """What the head predicts: the change since the last latent in units of its sd, or the latent itself."""
    patch_bins: int = 1
    """Bins to a token; the head draws those of one token together."""
    positions: int = 0
    """Learned vectors of this many tokens from the start of a window, for trials aligned to an event, whose activity
    depends on the time since; must cover the longest window. 0: time is told by what happened only."""
    covariates: dict[str, CovariateConfig] = field(default_factory=dict)
    """Covariates that the dynamics read, by name; in this order their columns stand in a batch."""
    covariate_endings: float = 0.5
    """Share of the training samples whose covariates known in the past end at a random bin, as they do in a rollout."""
    history_noise: float = 0.1
    """Noise added to the latents that the dynamics read in training, in whitened sd (exposure bias)."""
    noise_spread: Literal["fixed", "uniform"] = "fixed"
    """uniform: each sample's noise level is drawn from 0 to `history_noise`."""
    noise_target: Literal["clean", "corrected"] = "clean"
    """corrected: the increment to be predicted starts from the noisy latent, so that it leads back to the true one."""
    history_dropout: float = 0.0
    """Share of past latents replaced by zero in training."""
    history_scales: list[int] = field(default_factory=lambda: [1, 5, 20])
    """Causal running means of the latents over these many bins are read beside each other."""
    condition_dropout: float = 0.1
    """Share of samples that do not see their session and subject in training; of covariates too, independently."""
    usual_share: float = 0.03
    """Weight, in forecast rates of counts, of the unit's mean over its train split; the rest is the mean over samples.
    More where activity comes in bursts that samples miss. It changes no training."""
    gaussian_companion: bool = True
    """Also fit a Gaussian head on the same hidden states (without changing them), as the row to compare with."""

    @property
    def covariate_columns(self) -> dict[str, int]:
        """Number of columns of each covariate, in their order in a batch. Raises ValueError where it is not known."""
        unknown = [name for name, covariate in self.covariates.items() if covariate.columns is None]
        if unknown:
            raise ValueError(f"covariates.{unknown[0]}.columns: not given, and no data set was read to take it from")
        return {name: covariate.columns or 0 for name, covariate in self.covariates.items()}

    def problems(self) -> list[str]:
        found = [] if 1 in self.history_scales else ["history_scales: must contain 1, the last latent itself"]
        if any(scale < 1 for scale in self.history_scales):
            found.append(f"history_scales: expected whole numbers of bins from 1 on, found {self.history_scales}")
        found += at_least(self, 0, "history_noise", "positions")
        found += at_least(self, 1, "patch_bins")
        if not 0 <= self.covariate_endings <= 1:
            found.append(f"covariate_endings: expected a number in [0, 1], found {self.covariate_endings}")
        found += [
            f"{name}: expected a number in [0, 1), found {getattr(self, name)}"
            for name in ("history_dropout", "condition_dropout", "usual_share")
            if not 0 <= getattr(self, name) < 1
        ]
        if self.noise_target == "corrected" and self.target == "level":
            found.append("noise_target: corrected is about increments; set target: increment, or noise_target: clean")
        if self.order != "causal":
            found += self._problems_without_causality()
        return found

    def _problems_without_causality(self) -> list[str]:
        found = []
        if self.target != "level":
            found.append(f"target: the bin before is not known in order {self.order}; set target: level")
        if self.backbone != "transformer":
            found.append(
                f"backbone: order {self.order} reads both ways, which a {self.backbone} cannot; set transformer"
            )
        return found
