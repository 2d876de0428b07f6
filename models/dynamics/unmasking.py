"""Masked generation: which tokens are hidden in training, and when each one is drawn in sampling.

Training (EAR, Shao et al. 2025; MAR, Li et al. 2024): a share of the tokens, a truncated normal, is hidden at
random. Sampling: K steps; after step s there are still floor(U cos(pi/2 (s + 1)/K)) of U unknown tokens
hidden, and every step draws at least one. Tokens of one step are drawn independently given what is known,
so neighbours drawn together disagree. Orders:

    random          as published
    spread          coarse to fine: tokens by bit-reversed place (van der Corput), from a random place on. Between two
                    tokens of one level there is always one of an earlier level, so for a process with the Markov
                    property drawing a whole level at once (`schedule: levels`) is exact; for others it is not
    left_to_right   tokens drawn together are neighbours: the worst case, to compare with

R rows, B batch, T tokens.
"""

import math
from typing import Literal

import torch
from torch import Tensor

from neurochorus.data_shards.settings import at_least, settings
from neurochorus.models.heads import Generators

Order = Literal["random", "spread", "left_to_right"]
Schedule = Literal["cosine", "levels"]


@settings
class MaskedConfig:
    """Settings of `order: masked`. `history_scales` and `history_dropout` of the causal order have no part in it."""

    ratio_mean: float = 1.0
    """Share of a window's tokens hidden in training: mean of a normal distribution, which is then cut off."""
    ratio_sd: float = 0.25
    """Its standard deviation before it is cut off."""
    ratio_lowest: float = 0.7
    """Least share that is hidden."""
    ratio_highest: float = 1.0
    """Greatest share that is hidden; 1 is the whole window."""
    ratio_per: Literal["batch", "sample"] = "sample"
    """One share for each micro-batch (as published) or one for each sample."""
    known_start: float = 0.0
    """Share of training windows whose first tokens, a uniformly drawn number, are known: what forecasts meet."""
    steps: int = 32
    """Steps K of the cosine schedule in sampling."""
    order: Order = "spread"
    """`random` as published; with `spread` the tokens of one step lie far apart."""
    schedule: Schedule = "cosine"
    """`levels`: each level of the order `spread` in one step, 1 + log2(tokens) steps; `steps` is not used."""
    overlap: float = 0.5
    """Share of a window that earlier windows have filled, where generation goes on past the longest trained window."""
    buffer_tokens: int = 0
    """Learned tokens before the window, from which places in it can be told (64 as published)."""

    def problems(self) -> list[str]:
        found = at_least(self, 1, "steps") + at_least(self, 0, "buffer_tokens")
        if not 0 < self.ratio_lowest <= self.ratio_highest <= 1:
            found.append(
                "ratio_lowest: expected 0 < ratio_lowest <= ratio_highest <= 1, "
                f"found {self.ratio_lowest} and {self.ratio_highest}"
            )
        if not self.ratio_sd > 0:
            found.append(f"ratio_sd: expected a positive number, found {self.ratio_sd}")
        found += [
            f"{name}: expected a number in [0, 1), found {getattr(self, name)}"
            for name in ("known_start", "overlap")
            if not 0 <= getattr(self, name) < 1
        ]
        if self.schedule == "levels" and self.order != "spread":
            found.append(f"schedule: levels are those of the order spread, found the order {self.order}")
        return found


def masking_ratio(config: MaskedConfig, batch: int, device: torch.device) -> Tensor:
    """Shares of tokens to hide, (B, 1), from PyTorch's global generator."""

    def below(value: float) -> float:
        return 0.5 * (1 + math.erf((value - config.ratio_mean) / (config.ratio_sd * math.sqrt(2))))

    lowest, highest = below(config.ratio_lowest), below(config.ratio_highest)
    uniform_R1 = torch.rand(batch if config.ratio_per == "sample" else 1, 1, device=device)
    normal_R1 = torch.special.ndtri(lowest + (highest - lowest) * uniform_R1)
    ratio_R1 = config.ratio_mean + config.ratio_sd * normal_R1
    return ratio_R1.clamp(config.ratio_lowest, config.ratio_highest).expand(batch, 1)


def training_mask(config: MaskedConfig, valid_BT: Tensor) -> Tensor:
    """The hidden tokens (B, T) of a training batch: among the valid ones, at least one a row that has any."""
    batch, tokens = valid_BT.shape
    count_B1 = valid_BT.sum(dim=1, keepdim=True)
    ratio_B1 = masking_ratio(config, batch, valid_BT.device)
    has_start_B1 = torch.rand(batch, 1, device=valid_BT.device) < config.known_start
    start_B1 = torch.floor(torch.rand(batch, 1, device=valid_BT.device) * count_B1) * has_start_B1
    open_BT = valid_BT & (torch.arange(tokens, device=valid_BT.device) >= start_B1)
    place_BT = (
        torch.rand(batch, tokens, device=valid_BT.device).masked_fill(~open_BT, 2.0).argsort(dim=1).argsort(dim=1)
    )
    return open_BT & (place_BT < torch.ceil(ratio_B1 * open_BT.sum(dim=1, keepdim=True)))


def cosine_counts(tokens: int, steps: int) -> list[int]:
    """How many of `tokens` each step draws; min(tokens, steps) steps or fewer, and their sum is `tokens`."""
    counts: list[int] = []
    hidden = tokens
    for step in range(steps):
        if hidden == 0:
            break
        left = math.floor(tokens * math.cos(math.pi / 2 * (step + 1) / steps)) if step + 1 < steps else 0
        left = min(left, hidden - 1)
        counts.append(hidden - left)
        hidden = left
    return counts


def drawing_steps(unknown_RT: Tensor, config: MaskedConfig, generator: Generators) -> Tensor:
    """The step at which each token is drawn, (R, T) on the CPU, and -1 for those that are known.

    A row depends on its own unknown tokens and its own generator only.
    """
    unknown_RT = unknown_RT.cpu()
    count_R1 = unknown_RT.sum(dim=1, keepdim=True)
    place_RT = unknown_RT.long().cumsum(dim=1) - 1  # 0 ... count - 1 among the unknown tokens of the row
    rows, tokens = unknown_RT.shape
    match config.order:
        case "random":
            priority_RT = _uniform(rows, tokens, generator)
        case "spread":
            offset_R1 = torch.floor(_uniform(rows, 1, generator) * count_R1).long()
            place_RT = (place_RT + offset_R1) % count_R1.clamp_min(1)
            priority_RT = _bits_reversed(place_RT, tokens)
        case "left_to_right":
            priority_RT = place_RT
    if config.schedule == "levels":
        step_RT = _level(place_RT, count_R1)
    else:
        last = priority_RT.max() + 1
        drawn_RT = priority_RT.masked_fill(~unknown_RT, last).argsort(dim=1, stable=True).argsort(dim=1)
        step_RT = _step_of(count_R1[:, 0].tolist(), tokens, config.steps).gather(1, drawn_RT)
    return step_RT.masked_fill(~unknown_RT, -1)


def windows(tokens: int, longest: int, overlap: float) -> list[tuple[int, int]]:
    """Starts and stops of windows of up to `longest` tokens that cover all, neighbours sharing `overlap` or more."""
    if tokens <= longest:
        return [(0, tokens)]
    stride = longest - min(math.floor(longest * overlap), longest - 1)
    return [(start, start + longest) for start in [*range(0, tokens - longest, stride), tokens - longest]]


def _step_of(counts: list[int], tokens: int, steps: int) -> Tensor:
    """The step of the first, second, ... token drawn in rows with so many unknown ones, (R, T)."""
    table = {
        count: [step for step, drawn in enumerate(cosine_counts(count, steps)) for _ in range(drawn)]
        for count in set(counts)
    }
    return torch.tensor([table[count] + [0] * (tokens - count) for count in counts]).view(len(counts), tokens)


def _bits_reversed(place_RT: Tensor, tokens: int) -> Tensor:
    bits = max(tokens - 1, 1).bit_length()
    return torch.stack([((place_RT >> bit) & 1) << (bits - 1 - bit) for bit in range(bits)]).sum(dim=0)


def _level(place_RT: Tensor, count_R1: Tensor) -> Tensor:
    """Level of a place in the order by reversed bits: 0 for place 0, then one level for each power of two."""
    bits_R1 = torch.tensor([[max(count - 1, 0).bit_length()] for count in count_R1[:, 0].tolist()])
    lowest_bit_RT = torch.log2((place_RT & -place_RT).clamp_min(1).float()).long()
    return torch.where(place_RT > 0, bits_R1 - lowest_bit_RT, 0)


def _uniform(rows: int, columns: int, generator: Generators) -> Tensor:
    if isinstance(generator, torch.Generator):
        return torch.rand(rows, columns, generator=generator)
    return torch.stack([torch.rand(columns, generator=one) for one in generator])
