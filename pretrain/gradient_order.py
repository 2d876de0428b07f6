"""A guard against ranks that touch different parameters, which ZeRO-1, 2 and 3 train on in silence, wrongly.

Every rank notes the order in which gradients arrive; in the first steps and now and then later the orders
are compared.
"""

import hashlib

import torch
import torch.distributed as dist
from torch import nn

from neurochorus.pretrain.distributed import Ranks


class GradientOrder:
    """Notes the order of gradients of a module and compares it between ranks."""

    def __init__(self, module: nn.Module, ranks: Ranks, first_steps: int = 20, every: int = 200):
        self._ranks, self._first_steps, self._every = ranks, first_steps, every
        self._names: list[str] = []
        for name, parameter in module.named_parameters():
            if parameter.requires_grad:
                parameter.register_post_accumulate_grad_hook(lambda _, name=name: self._names.append(name))

    def check(self, step: int) -> None:
        """Compare what arrived since the last check. Raises RuntimeError naming the parameters that differ."""
        names, self._names = self._names, []
        if self._ranks.world == 1 or (step >= self._first_steps and step % self._every):
            return
        digest = hashlib.blake2b("\n".join(names).encode(), digest_size=8).digest()
        own = torch.tensor([int.from_bytes(digest, "little") >> 1], device=self._ranks.device)
        everyone = [torch.empty_like(own) for _ in range(self._ranks.world)]
        dist.all_gather(everyone, own)
        if any(not torch.equal(other, own) for other in everyone):
            self._explain(names, step)

    def _explain(self, names: list[str], step: int) -> None:
        orders: list[list[str]] = [[] for _ in range(self._ranks.world)]
        dist.all_gather_object(orders, names)
        counts = [{name: order.count(name) for name in order} for order in orders]
        differing = sorted(
            {name for count in counts for name in count if any(c.get(name) != count[name] for c in counts)}
        )
        detail = "\n".join(
            f"  rank {rank}: {', '.join(f'{name} x{count.get(name, 0)}' for name in differing[:5]) or 'another order'}"
            for rank, count in enumerate(counts)
        )
        raise RuntimeError(
            f"step {step + 1}: the ranks got gradients of different parameters, or in a different order; ZeRO would "
            f"add them up all the same, without a word.\n{detail}\nEvery rank must use every parameter in the same "
            "order whatever its batch holds: gather rows from one table instead of choosing a module."
        )
