"""A gated recurrent network in the place of the transformer: the backbone of AFM (Rogalla et al. 2026).

B batch, T tokens, D width. Its memory does not grow with the number of tokens.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from neurochorus.data_shards.settings import at_least, settings
from neurochorus.models.backbones.base import Backbone, Cache


@settings
class GRUConfig:
    width: int = 96
    layers: int = 2
    dropout: float = 0.1
    """Dropout of what each layer reads."""

    def problems(self) -> list[str]:
        found = at_least(self, 1, "width", "layers")
        return found + (
            [] if 0 <= self.dropout < 1 else [f"dropout: expected a number in [0, 1), found {self.dropout}"]
        )


@dataclass
class GRUState:
    """State of each layer after `length` tokens."""

    state: Tensor  # (layers, B, D)
    length: int = 0

    def repeat(self, times: int) -> "GRUState":
        """Repeat every batch row `times` times (row b becomes rows b*times ... b*times+times-1)."""
        return GRUState(self.state.repeat_interleave(times, dim=1), self.length)


class GRU(Backbone):
    """Layers of gated recurrent units (Cho et al. 2014, arXiv 1406.1078) and a final RMSNorm."""

    def __init__(self, config: GRUConfig):
        super().__init__()
        self.config, self.width = config, config.width
        between = config.dropout if config.layers > 1 else 0.0
        self.dropout = nn.Dropout(config.dropout)
        self.layers = nn.GRU(config.width, config.width, config.layers, batch_first=True, dropout=between)
        self.norm = nn.RMSNorm(config.width, eps=1e-5)

    def forward(self, x_BTD: Tensor, cache: Cache | None = None) -> Tensor:
        """Hidden states of the tokens; with a cache they continue after the tokens already in it."""
        assert cache is None or isinstance(cache, GRUState)
        with torch.autocast(x_BTD.device.type, enabled=False):  # rounding would add up from token to token
            hidden_BTD, state = self.layers(self.dropout(x_BTD.float()), None if cache is None else cache.state)
        if cache is not None:
            cache.state, cache.length = state, cache.length + x_BTD.shape[1]
        return self.norm(hidden_BTD)

    def new_cache(self, batch: int, capacity: int = 0, device: torch.device | str = "cpu") -> GRUState:
        """The state before the first token; any number of tokens may come."""
        return GRUState(torch.zeros(self.config.layers, batch, self.width, device=device))
