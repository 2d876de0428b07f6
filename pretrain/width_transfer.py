"""Learning rates that serve at every width: the maximal update parametrisation (muP).

Table 3 of Tensor Programs V (Yang et al. 2021, arXiv 2203.03466) for Adam, m the width over the base width:

    reads from the width       a learning rate 1 / m of that at the base width: one step then changes what the matrix
                               gives as much as there
    also gives a fixed number  (read-outs) starts with a standard deviation 1 / sqrt(m) of PyTorch's own
    all others                 tables, vectors (learned places and tokens too), and matrices that read latents: as they
                               are

Which matrices read from the width is found by building the model at the base width, without memory, and comparing
shapes. Widths of heads and decoders belong to no transformer and stay as they are set.
"""

from dataclasses import replace

import torch
from torch import nn

from neurochorus.models import ModelConfig, NeuralModel
from neurochorus.models.dynamics.base import Dynamics
from neurochorus.models.units import Table

FACTORS = "rate_factors"
"""Attribute of a module: name of a parameter of its own -> factor on its learning rate."""


@torch.no_grad()
def transfer_width(model: NeuralModel, base_width: int | None, new: bool = True) -> None:
    """Scale the start of a new model's read-outs, and note the factors that `rate_factors` finds; None: do nothing.

    Of a trained model (`new` false) the factors are noted alone.
    """
    if base_width is None:
        return
    with torch.device("meta"):
        base = NeuralModel(_at_width(model.config, base_width), model.registry)
    for name, module in model.named_modules():
        if isinstance(module, Table):
            continue
        factors: dict[str, float] = {}
        for own, parameter in module.named_parameters(recurse=False):
            at_base = base.get_submodule(name).get_parameter(own)
            if isinstance(module, Dynamics) and own in module.input_vectors:
                continue
            if parameter.ndim == 2 and parameter.shape[1] != at_base.shape[1]:
                factors[own] = at_base.shape[1] / parameter.shape[1]
                if new and parameter.shape[0] == at_base.shape[0]:
                    parameter.mul_(factors[own] ** 0.5)
        setattr(module, FACTORS, factors)


def rate_factors(module: nn.Module) -> dict[int, float]:
    """Of the parameters of a module or a copy of it: id -> factor on the learning rate, where it is not 1."""
    return {
        id(owner.get_parameter(name)): factor
        for owner in module.modules()
        for name, factor in getattr(owner, FACTORS, {}).items()
    }


def _at_width(config: ModelConfig, width: int) -> ModelConfig:
    """With one attention head, since shapes do not depend on their number."""
    encoder = replace(config.autoencoder.encoder, width=width, heads=1)
    transformer = replace(config.dynamics.transformer, width=width, heads=1)
    dynamics = replace(config.dynamics, transformer=transformer, gru=replace(config.dynamics.gru, width=width))
    return replace(config, autoencoder=replace(config.autoencoder, encoder=encoder), dynamics=dynamics)
