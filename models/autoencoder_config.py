"""Settings of stage 1."""

from dataclasses import field
from typing import Literal

from neurochorus.data_shards.settings import at_least, settings
from neurochorus.models.backbones.transformer import TransformerConfig
from neurochorus.models.observations import ObservationName, RateName


@settings
class AutoencoderConfig:
    latents: int = 16
    """Number of latent channels L."""
    encoder: TransformerConfig = field(default_factory=TransformerConfig)
    causal: bool = True
    """false: a latent also sees the bins after its own, as in LDNS. Such a model generates from nothing and
    reconstructs, but cannot forecast: its latents of a context would know what is to be forecast."""
    decoder_hidden: int = 0
    """Width of a pointwise layer between latents and read-out, which starts as no change at all; 0: none."""
    observation: ObservationName = "auto"
    """auto: Poisson for spikes, Gaussian for continuous signals."""
    rate: RateName = "exp"
    """What makes the decoder's output a mean count: exp, or softplus as in LDNS."""
    history_bins: int = 0
    """Bins of its own past that a unit's present rate depends on through a filter of its own; 0: none."""
    history_cap: float = 5.0
    """Largest count that this filter reads; of continuous signals the largest absolute z-score."""
    unit_dropout: float = 0.3
    """Share of units hidden from the encoder, drawn for each sample."""
    bin_dropout: float = 0.0
    """Share of single bins hidden from the encoder (coordinated dropout)."""
    latent_dropout: float = 0.2
    """Share of latent entries that the decoder reads as zero in training."""
    present_weight: float = 0.3
    """Weight of the present bin; scored on hidden entries only when anything is hidden."""
    future_weights: dict[int, float] = field(default_factory=lambda: {1: 0.1, 5: 0.3, 10: 1.0})
    """Horizon in bins -> weight of decoding the mean of that many bins that follow."""
    burn_in_bins: int = 0
    """Bins at the start of a window that are read but not scored."""
    latent_scale: Literal["whiten", "read_out"] = "whiten"
    """Coordinates that stage 2 works in: latents of unit variance, or uncorrelated ones whose sd is in proportion to
    what they change in the read-out, so that directions nobody reads do not count as much as the others."""
    slow_gain: bool = True
    """Whether the decoder also reads how active a unit was so far in the window, times a gain of that unit."""
    gain_memory_bins: float | None = None
    """Time constant of the slow gain in bins; null: everything since the window began."""
    earlier_memory_bins: float | None = None
    """Time constant, in bins, of a memory of what each unit did in earlier train samples of its session, from which its
    slow gain starts; null: it starts at the train mean. For units that drift in rate over many trials."""
    latent_l2: float = 0.0
    """Weight of the mean squared latent (LDNS). LDNS sums over channels and divides by the number of entries of the
    signal, while a bin's loss here is divided by its expected spikes: its `latent_beta` is latent_l2 =
    present_weight * latent_beta * latents / (spikes of all units in a bin * share of entries hidden)."""
    latent_smoothness: float = 0.0
    """Weight of squared differences of latents 1 to 5 bins apart, each divided by 1 + lag (LDNS's `td_beta`, on the
    same scale as `latent_l2`)."""
    variational: bool = False
    """The encoder gives each latent a mean and an sd; in training the decoder reads a draw."""
    kl_weight: float = 1e-3
    """Weight of the divergence from a standard normal, summed over channels; present_weight / (spikes of all units
    in a bin) makes it and the loss of the present an evidence bound."""
    kl_clamp: float = 0.5
    """Divergence in nats that a bin's channel has for free (CALM, Shao et al. 2025)."""
    posterior_draws: int = 0
    """Draws of each latent that stage 2 learns to predict (CALM uses 100); 0: the mean alone."""
    row_penalty: float = 0.0
    """Weight of the mean squared unit row, of units in the batch only: decay that spares absent sessions."""

    @property
    def decoders_weight(self) -> float:
        """Sum of the decoders' weights: as often does the loss count a bin."""
        return self.present_weight + sum(self.future_weights.values())

    def problems(self) -> list[str]:
        found = [
            f"{name}: expected a number in [0, 1), found {getattr(self, name)}"
            for name in ("unit_dropout", "bin_dropout", "latent_dropout")
            if not 0 <= getattr(self, name) < 1
        ]
        found += at_least(self, 1, "latents")
        found += at_least(self, 0, "burn_in_bins", "present_weight", "latent_l2", "latent_smoothness", "row_penalty")
        found += at_least(self, 0, "decoder_hidden", "history_bins", "kl_weight", "kl_clamp", "posterior_draws")
        if not self.history_cap > 0:
            found.append(f"history_cap: expected a positive number, found {self.history_cap}")
        if self.posterior_draws > 0 and not self.variational:
            found.append(
                f"posterior_draws: {self.posterior_draws} draws of latents without spread; set variational: true"
            )
        for name in ("gain_memory_bins", "earlier_memory_bins"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                found.append(f"{name}: expected null or a positive number, found {value}")
        if self.earlier_memory_bins is not None and not self.slow_gain:
            found.append("earlier_memory_bins: it is where the slow gain starts; set slow_gain: true")
        found += [
            f"future_weights: weight {w} at horizon {k}; expected 0 or more"
            for k, w in self.future_weights.items()
            if not w >= 0
        ]
        found += [f"future_weights: a horizon of {k} bins; expected 1 or more" for k in self.future_weights if k < 1]
        if self.present_weight <= 0 and not any(self.future_weights.values()):
            found.append("present_weight: nothing to learn, as the future weights are all zero too")
        return found
