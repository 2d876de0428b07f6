"""Settings of stage 2."""

from dataclasses import field
from typing import Literal

from neurochorus.data_shards.settings import at_least, settings
from neurochorus.models.backbones.transformer import TransformerConfig


@settings
class DynamicsConfig:
    transformer: TransformerConfig = field(default_factory=lambda: TransformerConfig(blocks=4))
    target: Literal["increment", "level"] = "increment"
    history_noise: float = 0.1
    """Noise added to the latents that the transformer reads in training, in whitened sd (exposure bias)."""
    history_dropout: float = 0.0
    """Share of past latents replaced by zero in training."""
    history_scales: list[int] = field(default_factory=lambda: [1, 5, 20])
    """Causal running means of the latents over these many bins are read beside each other."""
    condition_dropout: float = 0.1
    """Share of samples that do not see their session and subject in training."""
    gaussian_companion: bool = True
    """Also fit a Gaussian head on the same hidden states (without changing them), as the row to compare with."""

    def problems(self) -> list[str]:
        found = [] if 1 in self.history_scales else ["history_scales: must contain 1, the last latent itself"]
        if any(scale < 1 for scale in self.history_scales):
            found.append(f"history_scales: expected whole numbers of bins from 1 on, found {self.history_scales}")
        found += at_least(self, 0, "history_noise")
        return found + [
            f"{name}: expected a number in [0, 1), found {getattr(self, name)}"
            for name in ("history_dropout", "condition_dropout")
            if not 0 <= getattr(self, name) < 1
        ]
