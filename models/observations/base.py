"""What all observation models can do, so that the autoencoder knows nothing else about the modality.

B batch, T bins, C units; K independent draws that make one outcome. `mean_BC`, `sd_BC`: a unit's mean and sd per bin
on the train split; `shape_BC`: one learned number a unit for the shape of the distribution around the mean.
"""

from abc import ABC, abstractmethod
from typing import ClassVar, Literal

import torch
from torch import Tensor

RateName = Literal["exp", "softplus"]

READ_IN_POWER = 10.0
"""Root of the summed power of a bin as the encoder reads it, whatever the number of units. It sets how fast read-in
rows learn, since Adam moves every row at the same speed: 1,500 steps on steinmetz2019 gave a direct forecast of 0.099
bits/spike at 1 and 0.122 at 4 (one seed; RESULTS.md)."""


class Observation(ABC):
    """One recorded number per bin and unit, given the decoder's output for it."""

    name: ClassVar[str]
    initial_shape: ClassVar[float] = 0.0
    """What `shape_BC` starts with."""

    @abstractmethod
    def initial_bias(self, mean_C: Tensor) -> Tensor:
        """The decoder's output at which the mean is the train mean."""

    @abstractmethod
    def transform(self, signal_BTC: Tensor, mean_BC: Tensor, sd_BC: Tensor) -> Tensor:
        """The signal as the encoder reads it."""

    @abstractmethod
    def target(self, signal_BTC: Tensor, mean_BC: Tensor, sd_BC: Tensor) -> Tensor:
        """The signal as the decoder is scored on it: counts, or z-scores."""

    @abstractmethod
    def past(self, signal_BTC: Tensor, mean_BC: Tensor, sd_BC: Tensor, cap: float) -> Tensor:
        """The signal as a unit's history filter reads it: at most `cap`, and zero on average.

        Zero mean makes a bin before the window (read as zero) say nothing, and leaves the decoder without the filter
        the rate at an average past.
        """

    @abstractmethod
    def summed_target(self, sums_BC: Tensor, bins_B1: Tensor, mean_BC: Tensor, sd_BC: Tensor) -> Tensor:
        """The sum of `target` over (weighted) bins, given that of the signal."""

    @abstractmethod
    def usual_level(self, mean_BC: Tensor) -> Tensor:
        """The mean of a unit's target when nothing else is known of it, (B, C)."""

    def level(self, sums: Tensor, weights: Tensor, around: Tensor, strength: Tensor) -> Tensor:
        """What a unit's own past says of its present mean, (sums + A around) / (weights + A).

        sums: of its targets in `weights` bins; around: the mean before they were seen, which counts as A = `strength`
        bins. For counts the posterior mean under a gamma prior, for z-scores under a normal one.
        """
        return (sums + strength * around) / (weights + strength)

    @abstractmethod
    def shift(self, level: Tensor, around: Tensor) -> Tensor:
        """What a level other than `around` adds to the decoder's output."""

    @abstractmethod
    def loss(self, decoded_BTC: Tensor, target_BTC: Tensor, shape_BC: Tensor) -> Tensor:
        """Negative log likelihood of each bin in nats, without terms that do not depend on the model."""

    @abstractmethod
    def future_loss(self, decoded_BTC: Tensor, target_BTC: Tensor, shape_BC: Tensor) -> Tensor:
        """Loss of a decoded mean against the mean of several bins that follow.

        It teaches the mean only: the shape is that of one bin given its latent, and a mean of several bins, which the
        latent does not determine, is spread in another way.
        """

    @abstractmethod
    def loss_scale(self, mean_BC: Tensor, unit_mask_BC: Tensor) -> Tensor:
        """What the summed loss of a bin is divided by, (B,), so that sessions of all sizes weigh the same."""

    @abstractmethod
    def information(self, mean_C: Tensor) -> Tensor:
        """How much the output of a unit's linear decoder matters, (C,): the Fisher information at its train mean."""

    @abstractmethod
    def mean(self, decoded_BTC: Tensor, mean_BC: Tensor, sd_BC: Tensor) -> Tensor:
        """Mean in the recording's own unit: counts per bin, or the signal's unit."""

    @abstractmethod
    def sample(self, mean_BTC: Tensor, shape_BC: Tensor, sd_BC: Tensor, generator: torch.Generator) -> Tensor:
        """A draw around `mean_BTC` (as `mean` gives it, on the CPU)."""

    @abstractmethod
    def noise(self, bins: int, shape_C: Tensor, generator: torch.Generator) -> Tensor:
        """All that chance decides about `bins` bins of one sample, whatever their means will be, (K, bins, C).

        For bins whose means depend on the outcomes before them: chance is drawn once for each sample, on the CPU, and
        `outcome` then takes all samples through a bin at once.
        """

    @abstractmethod
    def outcome(self, mean_BTC: Tensor, noise_KBTC: Tensor, shape_BC: Tensor, sd_BC: Tensor) -> Tensor:
        """The draw that `noise` stands for once the means are known; distributed as `sample`."""
