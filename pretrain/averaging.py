"""A running average of the weights (EMA), of which every rank keeps its share.

Rank r of W keeps elements r n / W to (r + 1) n / W, rounded up, of each flattened parameter with n elements: at ZeRO-3
just what it holds of the parameter itself, at lower stages a W-th of a whole one. Nothing is sent until the average is
asked for.

After t averaged steps the decay is min(decay, (1 + t) / (10 + t)), so that the first weights are soon forgotten
(as in TensorFlow's ExponentialMovingAverage).
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from neurochorus.pretrain.distributed import Ranks


class WeightAverage:
    """The average of the trainable parameters of a module, from their present values on."""

    @torch.no_grad()
    def __init__(self, module: nn.Module, decay: float, ranks: Ranks):
        """`module` as DeepSpeed holds it, after `deepspeed.initialize`."""
        self._decay, self._ranks = decay, ranks
        self._parameters = {name: p for name, p in module.named_parameters() if p.requires_grad}
        self._steps = 0
        self._shares = {name: share.clone() for name, share in self._own().items()}

    @torch.no_grad()
    def update(self) -> None:
        """Take in the weights after a step. Ranks need not call it together."""
        decay = min(self._decay, (1 + self._steps) / (10 + self._steps))
        take_in = get_ema_multi_avg_fn(decay)
        take_in(list(self._shares.values()), list(self._own().values()), self._steps)
        self._steps += 1

    def gather(self) -> dict[str, Tensor]:
        """Name -> the whole average, on the CPU, on every rank. All ranks must call it."""
        whole = {}
        for name, parameter in self._parameters.items():
            own = self._padded(name).to(self._ranks.device)
            shares = [torch.empty_like(own) for _ in range(self._ranks.world)]
            dist.all_gather(shares, own)
            shape = _shape(parameter)
            whole[name] = torch.cat(shares)[: shape.numel()].view(shape).cpu()
        return whole

    def state(self) -> dict[str, Any]:
        """This rank's share, to be saved."""
        return {"steps": self._steps, "shares": {name: share.cpu() for name, share in self._shares.items()}}

    @torch.no_grad()
    def load(self, states: Sequence[Mapping[str, Any]]) -> None:
        """Go on from the states of all ranks that saved them, in their order; they may be more or fewer than now.

        Raises ValueError when there are none, or they are of other parameters.
        """
        if not states:
            raise ValueError("it holds no average of the weights: train.ema was off when it was saved")
        saved = {name: torch.cat([state["shares"][name] for state in states]) for name in states[0]["shares"]}
        sizes = {name: _shape(parameter).numel() for name, parameter in self._parameters.items()}
        if {name: share.numel() for name, share in saved.items()} != sizes:
            odd = sorted(name for name in saved.keys() | sizes if len(saved.get(name, ())) != sizes.get(name))
            raise ValueError(f"the saved average is of other parameters than this model's: {', '.join(odd[:5])} differ")
        for name, share in self._shares.items():
            start = self._ranks.rank * _share(sizes[name], self._ranks.world)
            share.copy_(saved[name][start : start + share.numel()])
        self._steps = states[0]["steps"]

    def _own(self) -> dict[str, Tensor]:
        """What this rank averages of each parameter."""
        return {name: self._own_of(parameter) for name, parameter in self._parameters.items()}

    def _own_of(self, parameter: nn.Parameter) -> Tensor:
        total = _shape(parameter).numel()
        size = _share(total, self._ranks.world)
        start = min(self._ranks.rank * size, total)
        held = getattr(parameter, "ds_tensor", None)  # ZeRO-3's part of it, in the same layout, padded at the end
        if held is not None:
            return held.narrow(0, 0, min(size, total - start))
        return parameter.detach().view(-1)[start : start + size]

    def _padded(self, name: str) -> Tensor:
        own, size = self._shares[name], _share(_shape(self._parameters[name]).numel(), self._ranks.world)
        return torch.cat((own, own.new_zeros(size - own.numel())))


def _share(elements: int, world: int) -> int:
    return math.ceil(elements / world)


def _shape(parameter: nn.Parameter) -> torch.Size:
    """Of the whole parameter, which under ZeRO-3 is not there itself."""
    return torch.Size(getattr(parameter, "ds_shape", parameter.shape))
