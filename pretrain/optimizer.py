"""Parameter groups and the learning rate of each step."""

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from neurochorus.models.heads import Head
from neurochorus.models.units import Table
from neurochorus.pretrain.config import StageSection


def parameter_groups(module: nn.Module, stage: StageSection, head_factor: float) -> list[dict[str, Any]]:
    """Groups of trainable parameters: tables, weights, vectors (norms, biases), and those of the energy head.

    Each group has its `factor` on the learning rate. Every trainable parameter is in exactly one group, in the
    order of `named_parameters`, which is the same on all ranks.
    """
    tables = {id(m.weight): m.decays for m in module.modules() if isinstance(m, Table)}
    slow = {id(p) for m in module.modules() if isinstance(m, Head) and m.name == "energy" for p in m.parameters()}

    def kind(parameter: nn.Parameter) -> tuple[str, float, float]:
        if id(parameter) in tables:
            return "tables", stage.table_weight_decay if tables[id(parameter)] else 0.0, 1.0
        decay = stage.weight_decay if parameter.ndim >= 2 else 0.0
        return ("matrices" if parameter.ndim >= 2 else "vectors"), decay, head_factor if id(parameter) in slow else 1.0

    groups: dict[tuple[str, float, float], list[nn.Parameter]] = {}
    for parameter in module.parameters():
        if parameter.requires_grad:
            groups.setdefault(kind(parameter), []).append(parameter)
    return [
        {"params": parameters, "name": name, "weight_decay": decay, "factor": factor}
        for (name, decay, factor), parameters in groups.items()
    ]


def make_optimizer(groups: Iterable[dict[str, Any]], stage: StageSection) -> torch.optim.AdamW:
    """Fused AdamW over the groups; PyTorch's own, so nothing is compiled at the start, on CPUs either."""
    return torch.optim.AdamW(groups, lr=stage.learning_rate, betas=(0.9, stage.beta2), fused=True)


def learning_rate(step: int, stage: StageSection) -> float:
    """Learning rate of a step (from 0): linear warm-up, then half a cosine to zero. A pure function of the step."""
    warmup = stage.warmup * stage.steps
    if step < warmup:
        return stage.learning_rate * (step + 1) / (warmup + 1)
    progress = (step - warmup) / max(1.0, stage.steps - warmup)
    return stage.learning_rate * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
