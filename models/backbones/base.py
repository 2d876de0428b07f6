"""What a backbone is: tokens in, hidden states out, with a cache that continues after tokens seen before.

B batch, T tokens, D width.
"""

from typing import Protocol, Self

import torch
from torch import Tensor, nn


class Cache(Protocol):
    """What a causal backbone remembers of the tokens it has seen; `length` of them."""

    length: int

    def repeat(self, times: int) -> Self:
        """Repeat every batch row `times` times (row b becomes rows b*times ... b*times+times-1)."""
        ...


class Backbone(nn.Module):
    """A causal map (B, T, D) -> (B, T, D): the hidden state of a token depends on it and on those before it.

    A call with a cache continues after the tokens in it, adds its own to it, and gives what one call with all tokens
    would. Gradients flow through a cache that was filled with gradients enabled.
    """

    width: int

    def forward(self, x_BTD: Tensor, cache: Cache | None = None) -> Tensor:
        raise NotImplementedError

    def new_cache(self, batch: int, capacity: int, device: torch.device | str = "cpu") -> Cache:
        """An empty cache for `batch` rows of up to `capacity` tokens."""
        raise NotImplementedError
