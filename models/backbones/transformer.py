"""Transformer blocks shared by the encoder and the dynamics, causal or seeing both ways, with a key-value cache.

B batch, T bins (or tokens), D width, N attention heads, K width of one head.
Pre-norm blocks (RMSNorm), rotary positions (Su et al. 2021, arXiv 2104.09864), GELU feed-forward.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from neurochorus.data_shards.settings import at_least, settings
from neurochorus.models.backbones.base import Backbone, Cache
from neurochorus.models.backbones.key_values import KeyValueCache


@settings
class TransformerConfig:
    width: int = 96
    """Width D of the residual stream; a multiple of twice the number of heads."""
    blocks: int = 2
    """Number of blocks, each of attention and a feed-forward layer."""
    heads: int = 4
    """Attention heads of a block."""
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


class Attention(nn.Module):
    def __init__(self, config: TransformerConfig, causal: bool):
        super().__init__()
        self.heads = config.heads
        self.causal = causal
        self.window = config.attention_window
        self.queries_keys_values = nn.Linear(config.width, 3 * config.width, bias=False)
        self.output = nn.Linear(config.width, config.width, bias=False)

    def forward(self, x_BTD: Tensor, cache: KeyValueCache | None, block: int, mask_BT: Tensor | None) -> Tensor:
        batch, bins, width = x_BTD.shape
        start = cache.length if cache is not None else 0
        mixed = self.queries_keys_values(x_BTD).view(batch, bins, 3, self.heads, width // self.heads)
        query, key, value = mixed.permute(2, 0, 3, 1, 4)  # each (B, N, T, K)
        query, key = rotate(query, start), rotate(key, start)
        if cache is not None:
            key, value = (part.to(query.dtype) for part in cache.blocks[block].extend(key, value))
        if query.device.type == "cpu":
            # bfloat16 attention on CPUs takes up to ten times as long as float32, backward above all
            with torch.autocast("cpu", enabled=False):
                mixed = self.attend(query.float(), key.float(), value.float(), mask_BT)
        else:
            mixed = self.attend(query, key, value, mask_BT)
        return self.output(mixed.transpose(1, 2).reshape(batch, bins, width))

    def attend(self, query: Tensor, key: Tensor, value: Tensor, mask_BT: Tensor | None) -> Tensor:
        """The queries are the newest of the tokens whose keys are given."""
        bins, seen = query.shape[2], key.shape[2]
        if mask_BT is None and (bins == 1 or (self.window is None and bins == seen)):
            # one token may see all that its cache kept
            return F.scaled_dot_product_attention(query, key, value, is_causal=self.causal and bins > 1)
        age = torch.arange(seen - bins, seen, device=key.device)[:, None] - torch.arange(seen, device=key.device)
        visible = (age >= 0) if self.causal else torch.ones_like(age, dtype=torch.bool)
        if self.window is not None:
            visible = visible & (age.abs() < self.window)
        if mask_BT is not None:  # a padded token sees itself, since attention to nothing is not a number
            visible = (visible & mask_BT[:, None, None, :]) | (age == 0)
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

    def forward(self, x_BTD: Tensor, cache: KeyValueCache | None, index: int, mask_BT: Tensor | None) -> Tensor:
        x_BTD = x_BTD + self.dropout(self.attention(self.attention_norm(x_BTD), cache, index, mask_BT))
        return x_BTD + self.dropout(self.contract(F.gelu(self.expand(self.feedforward_norm(x_BTD)))))


class Transformer(Backbone):
    """A stack of blocks and a final RMSNorm, (B, T, D) -> (B, T, D).

    `causal`: a token sees itself and those before it; otherwise all of them, and there is no cache.
    """

    def __init__(self, config: TransformerConfig, causal: bool = True):
        super().__init__()
        self.config, self.causal, self.width = config, causal, config.width
        self.blocks = nn.ModuleList([Block(config, causal) for _ in range(config.blocks)])
        self.norm = nn.RMSNorm(config.width, eps=1e-5)
        self.recomputed: frozenset[int] = frozenset()
        "Numbers of the blocks whose activations are computed again in the backward pass instead of kept."
        self._initialise()

    def _initialise(self) -> None:
        # residual branches start small, so that depth does not change the scale of the stream
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:
                scale = parameter.shape[1] ** -0.5
                if name.endswith(("output.weight", "contract.weight")):
                    scale /= (2 * self.config.blocks) ** 0.5
                nn.init.normal_(parameter, std=scale)

    def forward(self, x_BTD: Tensor, cache: Cache | None = None, mask_BT: Tensor | None = None) -> Tensor:
        """Hidden states of the tokens; with a cache they continue after the tokens already in it.

        `mask_BT`: False where a token is padding, which no other token then sees; None: there is none.
        Raises ValueError when the cache has no room left, or is given together with a mask or to a transformer that
        is not causal.
        """
        if cache is not None:
            assert isinstance(cache, KeyValueCache)
            if not self.causal or mask_BT is not None:
                raise ValueError("a cache is for causal tokens without padding: give all tokens at once without it")
            cache.check_room(x_BTD.shape[1])
        for index, block in enumerate(self.blocks):
            if index in self.recomputed and cache is None and torch.is_grad_enabled():
                x_BTD = checkpoint(block, x_BTD, None, index, mask_BT, use_reentrant=False)
            else:
                x_BTD = block(x_BTD, cache, index, mask_BT)
        if cache is not None:
            cache.length += x_BTD.shape[1]
        return self.norm(x_BTD)

    def new_cache(self, batch: int, capacity: int, device: torch.device | str = "cpu") -> KeyValueCache:
        """A cache of up to `capacity` tokens; with an attention window it takes any number of them."""
        config = self.config
        shape = (batch, config.heads, config.width // config.heads)
        return KeyValueCache.empty(config.blocks, shape, capacity, config.attention_window, device)
