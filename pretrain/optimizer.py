"""Parameter groups and the optimizer over them."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from neurochorus.models.heads import Head
from neurochorus.models.units import Table
from neurochorus.pretrain.config import StageSection
from neurochorus.pretrain.width_transfer import rate_factors

PACES = "paces"
"""Attribute of a module: name of a parameter of its own -> `Pace`."""


@dataclass(frozen=True)
class Pace:
    """How a parameter moves against the rest of its stage."""

    factor: float = 1.0
    """On the learning rate."""
    begins: float = 0.0
    """Share of the stage's steps before which its learning rate is 0, so that no weight decay acts either."""


def parameter_groups(module: nn.Module, stage: StageSection, head_factor: float) -> list[dict[str, Any]]:
    """Groups of trainable parameters: tables, weights, vectors (norms, biases), and those of the energy head.

    Each group has its `factor` on the learning rate, and the share of the steps at which it `begins` to move; the
    factor of a transferred width does not weaken the decay. Every trainable parameter is in exactly one group, in the
    order of `named_parameters`, which is the same on all ranks.
    """
    tables = {id(m.weight): m.decays for m in module.modules() if isinstance(m, Table)}
    slow = {id(p) for m in module.modules() if isinstance(m, Head) and m.name == "energy" for p in m.parameters()}
    widths, paces = rate_factors(module), _paces(module)

    def kind(parameter: nn.Parameter) -> tuple[str, float, float, float]:
        pace = paces.get(id(parameter), Pace())
        if id(parameter) in tables:
            return "tables", stage.table_weight_decay if tables[id(parameter)] else 0.0, pace.factor, pace.begins
        factor = pace.factor * (head_factor if id(parameter) in slow else 1.0)
        if parameter.ndim < 2:
            return "vectors", 0.0, factor, pace.begins
        width = widths.get(id(parameter), 1.0)
        return "matrices", stage.weight_decay / width, factor * width, pace.begins

    groups: dict[tuple[str, float, float, float], list[nn.Parameter]] = {}
    for parameter in module.parameters():
        if parameter.requires_grad:
            groups.setdefault(kind(parameter), []).append(parameter)
    return [
        {"params": parameters, "name": name, "weight_decay": decay, "factor": factor, "begins": begins}
        for (name, decay, factor, begins), parameters in groups.items()
    ]


def _paces(module: nn.Module) -> dict[int, Pace]:
    return {
        id(owner.get_parameter(name)): pace
        for owner in module.modules()
        for name, pace in getattr(owner, PACES, {}).items()
    }


def make_optimizer(groups: Iterable[dict[str, Any]], stage: StageSection) -> torch.optim.AdamW:
    """Fused AdamW over the groups; PyTorch's own, so nothing is compiled at the start, on CPUs either."""
    return torch.optim.AdamW(groups, lr=stage.learning_rate, betas=(0.9, stage.beta2), fused=True)
