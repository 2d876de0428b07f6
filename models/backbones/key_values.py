"""Keys and values of past tokens, so that a rollout computes one token at a time.

B batch, T tokens, N attention heads, K width of one head.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass
class BlockKeyValues:
    """What one block remembers: a row of keys and one of values, of which the first `stored` tokens are filled."""

    pairs: Tensor  # (2, B, N, room, K)
    window: int | None
    stored: int = 0

    def extend(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Add tokens (B, N, T, K); returns what the first of them can still see, oldest first, and themselves."""
        new = torch.stack((key, value)).to(self.pairs.dtype)
        visible = self.stored if self.window is None else min(self.stored, self.window - 1)
        end = self.stored + new.shape[3]
        in_graph = torch.is_grad_enabled() or self.pairs.requires_grad
        if not in_graph and end <= self.pairs.shape[3]:
            self.pairs[:, :, :, self.stored : end] = new
            seen = self.pairs[:, :, :, self.stored - visible : end]
            self.stored = end
        else:
            seen = torch.cat((self.pairs[:, :, :, self.stored - visible : self.stored], new), dim=3)
            self._keep_last(seen, in_graph)
        return seen[0], seen[1]

    def _keep_last(self, seen: Tensor, in_graph: bool) -> None:
        tokens = seen.shape[3]
        self.stored = tokens if self.window is None else min(tokens, self.window - 1)
        kept = seen[:, :, :, tokens - self.stored :]
        if in_graph or self.stored > self.pairs.shape[3]:
            self.pairs = kept
        else:
            self.pairs[:, :, :, : self.stored] = kept


@dataclass
class KeyValueCache:
    """Keys and values of past tokens for each block.

    With a sliding window only what a new token can still see is kept: memory is bounded by twice the window, however
    many tokens come. Without gradients tokens are written in place; with gradients they are joined on, so that what was
    computed from earlier states of the cache can still be differentiated.
    """

    blocks: list[BlockKeyValues]
    capacity: int
    length: int = 0
    "Tokens seen so far, those forgotten included."

    @classmethod
    def empty(
        cls, blocks: int, shape: tuple[int, int, int], capacity: int, window: int | None, device: torch.device | str
    ) -> "KeyValueCache":
        """`shape`: batch rows, attention heads, width of a head."""
        rows, heads, width = shape
        room = capacity if window is None else min(capacity, 2 * window)
        return cls(
            [BlockKeyValues(torch.zeros(2, rows, heads, room, width, device=device), window) for _ in range(blocks)],
            capacity,
        )

    def repeat(self, times: int) -> "KeyValueCache":
        """Repeat every batch row `times` times (row b becomes rows b*times ... b*times+times-1)."""
        blocks = [replace(block, pairs=block.pairs.repeat_interleave(times, dim=1)) for block in self.blocks]
        return replace(self, blocks=blocks)

    def check_room(self, tokens: int) -> None:
        """Raise ValueError when `tokens` more do not fit; with a window they always do."""
        if self.blocks[0].window is None and self.length + tokens > self.capacity:
            raise ValueError(
                f"the key-value cache holds {self.capacity} tokens, {self.length} are filled and "
                f"{tokens} more came: make it with a larger capacity"
            )
