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

    For bits/spike use `mean_rate`: one sample's rate is an over-confident forecast.
    """

    latents: Tensor  # (S, B, H, L)
    rates: Tensor  # (S, B, H, C), counts per bin, or the signal's own unit
    counts: Tensor  # (S, B, H, C)

    @property
    def mean_rate(self) -> Tensor:
        """Mean over samples, (B, H, C)."""
        return self.rates.mean(dim=0)


def row_generators(seed: int, sample_ids: Sequence[str], samples: int) -> list[torch.Generator]:
    """One generator for each (row, sample), row-major; it depends on (seed, sample id, sample number) only."""
    return [
        torch.Generator().manual_seed(seed_number(f"{seed}/{name}/{number}"))
        for name in sample_ids
        for number in range(samples)
    ]
