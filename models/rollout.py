"""What a rollout gives, and the noise that makes it reproducible.

S samples, B batch, H horizon bins, L latent channels, C units.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from neurochorus.data_shards.seeds import seed_number


@dataclass(frozen=True)
class Rollout:
    """Free-running samples: whitened latents, rates (mean of the observation per bin) and counts drawn from them.

    For bits/spike use `expected_rate`: one sample's rate is an over-confident forecast.
    """

    latents: Tensor  # (S, B, H, L)
    rates: Tensor  # (S, B, H, C), counts per bin, or the signal's own unit
    counts: Tensor  # (S, B, H, C)
    usual: Tensor | None = None
    "Mean count of each unit over its train split, (B, 1, C); None of other signals than counts."
    usual_share: float = 0.0
    "Its weight in `expected_rate`."

    @property
    def mean_rate(self) -> Tensor:
        """Mean over samples, (B, H, C)."""
        return self.rates.mean(dim=0)

    @property
    def expected_rate(self) -> Tensor:
        """`mean_rate` with the unit's usual rate at its share, (B, H, C)."""
        return expected_rate(self.mean_rate, self.usual, self.usual_share)


def expected_rate(mean: Tensor, usual: Tensor | None, share: float) -> Tensor:
    """Expected count given the mean over samples, (B, H, C), and the usual one, (B, 1, C), which has `share` in it.

    Of a burst that comes in one of a hundred trials 32 samples mostly know nothing, and a likelihood does not forgive a
    rate of nearly 0 where it comes.
    """
    return mean if usual is None else (1 - share) * mean + share * usual


def row_generators(seed: int, sample_ids: Sequence[str], samples: int) -> list[torch.Generator]:
    """One generator for each (row, sample), row-major; it depends on (seed, sample id, sample number) only."""
    return [
        torch.Generator().manual_seed(seed_number(f"{seed}/{name}/{number}"))
        for name in sample_ids
        for number in range(samples)
    ]
