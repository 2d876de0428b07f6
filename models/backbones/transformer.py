"""Transformer blocks shared by the encoder and the dynamics, causal or seeing both ways, with a key-value cache.

B batch, T bins (or tokens), D width, N attention heads, K width of one head.
Pre-norm blocks (RMSNorm), rotary positions (Su et al. 2021, arXiv 2104.09864), GELU feed-forward.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from neurochorus.data_shards.settings import at_least, settings


@settings
class TransformerConfig:
    width: int = 96
    """Width D of the residual stream; a multiple of twice the number of heads."""
    blocks: int = 2
    heads: int = 4
    feedforward: int = 4
    """Width of the feed-forward layer as a multiple of `width`."""
    dropout: float = 0.1
    """Dropout of what each sub-layer adds to the residual stream."""
    attention_window: int | None = None
    """How many bins back attention sees, itself included; null: everything."""

    def problems(self) -> list[str]:
        found = at_least(self, 1, "width", "blocks", "heads", "feedforward")
        if not found and self.width % (2 * self.heads):
            found.append(f"width: {self.width} is not a multiple of twice the {self.heads} heads")
        if self.attention_window is not None and self.attention_window < 1:
            found.append(f"attention_window: expected null or at least 1, found {self.attention_window}")
        if not 0 <= self.dropout < 1:
            found.append(f"dropout: expected a number in [0, 1), found {self.dropout}")
        return found


@dataclass
class KeyValueCache:
    """Keys and values of all past tokens for each block; `length` tokens are filled."""

    keys: list[Tensor]  # per block (B, N, capacity, K)
    values: list[Tensor]
    length: int = 0

    @property
    def capacity(self) -> int:
        return self.keys[0].shape[2]

    def repeat(self, times: int) -> "KeyValueCache":
        """Repeat every batch row `times` times (row b becomes rows b*times ... b*times+times-1)."""
        return KeyValueCache(
            [key.repeat_interleave(times, dim=0) for key in self.keys],
            [value.repeat_interleave(times, dim=0) for value in self.values],
            self.length,
        )


class Attention(nn.Module):
    def __init__(self, config: TransformerConfig, causal: bool):
        super().__init__()
        self.heads = config.heads
        self.causal = causal
        self.window = config.attention_window
        self.queries_keys_values = nn.Linear(config.width, 3 * config.width, bias=False)
        self.output = nn.Linear(config.width, config.width, bias=False)

    def forward(self, x_BTD: Tensor, cache: KeyValueCache | None, block: int) -> Tensor:
        batch, bins, width = x_BTD.shape
        start = cache.length if cache is not None else 0
        mixed = self.queries_keys_values(x_BTD).view(batch, bins, 3, self.heads, width // self.heads)
        query, key, value = mixed.permute(2, 0, 3, 1, 4)  # each (B, N, T, K)
        query, key = rotate(query, start), rotate(key, start)
        if cache is not None:
            cache.keys[block][:, :, start : start + bins] = key
            cache.values[block][:, :, start : start + bins] = value
            key = cache.keys[block][:, :, : start + bins].to(query.dtype)
            value = cache.values[block][:, :, : start + bins].to(query.dtype)
        if query.device.type == "cpu":
            # bfloat16 attention on CPUs takes up to ten times as long as float32, backward above all
            with torch.autocast("cpu", enabled=False):
                mixed = self._attend(query.float(), key.float(), value.float(), start)
        else:
            mixed = self._attend(query, key, value, start)
        return self.output(mixed.transpose(1, 2).reshape(batch, bins, width))

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, start: int) -> Tensor:
        bins, seen = query.shape[2], key.shape[2]
        if self.window is None and start == 0:
            return F.scaled_dot_product_attention(query, key, value, is_causal=self.causal and bins > 1)
        if self.window is None and bins == 1:
            return F.scaled_dot_product_attention(query, key, value)
        age = torch.arange(start, start + bins, device=key.device)[:, None] - torch.arange(seen, device=key.device)
        visible = (age >= 0) if self.causal else torch.ones_like(age, dtype=torch.bool)
        if self.window is not None:
            visible = visible & (age.abs() < self.window)
        return F.scaled_dot_product_attention(query, key, value, attn_mask=visible)


def rotate(x_BNTK: Tensor, start: int) -> Tensor:
    """Rotary position code for tokens at positions start, start + 1, ...; computed in float32."""
    half = x_BNTK.shape[-1] // 2
    position = torch.arange(start, start + x_BNTK.shape[2], device=x_BNTK.device, dtype=torch.float32)
    frequency = 10_000.0 ** (-torch.arange(half, device=x_BNTK.device, dtype=torch.float32) / half)
    angle = position[:, None] * frequency
    cosine, sine = angle.cos(), angle.sin()
    first, second = x_BNTK.float().split(half, dim=-1)
    return torch.cat((first * cosine - second * sine, first * sine + second * cosine), dim=-1).to(x_BNTK.dtype)


class Block(nn.Module):
    def __init__(self, config: TransformerConfig, causal: bool):
        super().__init__()
        hidden = config.feedforward * config.width
        self.attention_norm = nn.RMSNorm(config.width, eps=1e-5)
        self.attention = Attention(config, causal)
        self.feedforward_norm = nn.RMSNorm(config.width, eps=1e-5)
        self.expand = nn.Linear(config.width, hidden, bias=False)
        self.contract = nn.Linear(hidden, config.width, bias=False)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x_BTD: Tensor, cache: KeyValueCache | None, index: int) -> Tensor:
        x_BTD = x_BTD + self.dropout(self.attention(self.attention_norm(x_BTD), cache, index))
        return x_BTD + self.dropout(self.contract(F.gelu(self.expand(self.feedforward_norm(x_BTD)))))


class Transformer(nn.Module):
    """A stack of blocks and a final RMSNorm, (B, T, D) -> (B, T, D).

    `causal`: a token sees itself and those before it; otherwise all of them, and there is no cache.
    """

    def __init__(self, config: TransformerConfig, causal: bool = True):
        super().__init__()
        self.config, self.causal = config, causal
        self.blocks = nn.ModuleList([Block(config, causal) for _ in range(config.blocks)])
        self.norm = nn.RMSNorm(config.width, eps=1e-5)
        self._initialise()

    def _initialise(self) -> None:
        # residual branches start small, so that depth does not change the scale of the stream
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:
                scale = parameter.shape[1] ** -0.5
                if name.endswith(("output.weight", "contract.weight")):
                    scale /= (2 * self.config.blocks) ** 0.5
                nn.init.normal_(parameter, std=scale)

    def forward(self, x_BTD: Tensor, cache: KeyValueCache | None = None) -> Tensor:
        """Hidden states of the tokens; with a cache they continue after the tokens already in it.

        Raises ValueError when the cache has no room left, or the transformer is not causal.
        """
        if cache is not None and not self.causal:
            raise ValueError("a transformer that sees both ways has no cache: give it all tokens at once")
        if cache is not None and cache.length + x_BTD.shape[1] > cache.capacity:
            raise ValueError(
                f"the key-value cache holds {cache.capacity} tokens, {cache.length} are filled and "
                f"{x_BTD.shape[1]} more came: make it with a larger capacity"
            )
        for index, block in enumerate(self.blocks):
            x_BTD = block(x_BTD, cache, index)
        if cache is not None:
            cache.length += x_BTD.shape[1]
        return self.norm(x_BTD)

    def new_cache(self, batch: int, capacity: int, device: torch.device | str = "cpu") -> KeyValueCache:
        shape = (batch, self.config.heads, capacity, self.config.width // self.config.heads)
        blocks = range(self.config.blocks)
        return KeyValueCache(
            [torch.zeros(shape, device=device) for _ in blocks], [torch.zeros(shape, device=device) for _ in blocks]
        )
