"""Low-rank updates of linear layers (LoRA, Hu et al. 2021, arXiv 2106.09685): y = W x + b + (alpha / rank) B A x.

A is drawn as in the paper and B is zero, so that the first output is that of the layer alone, bit for bit. Both are
parameters of the very module that holds W: under ZeRO-3 they are gathered with it. In an export they are added to W,
and nothing of them is left.
"""

import re
from collections.abc import Mapping
from dataclasses import field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from neurochorus.data_shards.naming import nearest_hint
from neurochorus.data_shards.seeds import seed_number
from neurochorus.data_shards.settings import at_least, settings
from neurochorus.pretrain.optimizer import PACES, Pace
from neurochorus.pretrain.stages import StageName

DOWN, UP = "low_rank_down", "low_rank_up"

TARGETS = {
    "attention": r"(encoder|transformer)\.blocks\.\d+\.attention\..*",
    "mlp": r"(encoder|transformer)\.blocks\.\d+\.(expand|contract)",
    "latent": r"to_latent|decoder\..*",
    "read": r"read|level\..*",
    "covariates": r"covariates\..*",
    "head": r"(head|companion|output)\..*",
}
"""Name of a target -> its linear layers within the autoencoder and the dynamics."""


@settings
class LoraSection:
    rank: int = 8
    """Columns of A and B: of how many dimensions an update is, at most."""
    alpha: float = 16.0
    """The update is alpha / rank times B A."""
    targets: list[str] = field(default_factory=lambda: ["attention", "mlp"])
    """Linear layers that get one: `attention` and `mlp` of the transformers' blocks, `latent` (encoder to latents, and
    the decoder's pointwise layer), `read` (latents into the dynamics), `covariates`, `head`; of one part only with
    `autoencoder.` or `dynamics.` before it."""

    def problems(self) -> list[str]:
        found = at_least(self, 1, "rank")
        found += [] if self.alpha > 0 else [f"alpha: expected a positive number, found {self.alpha}"]
        found += [] if self.targets else ["targets: expected one or more"]
        for target in self.targets:
            part, _, kind = target.rpartition(".")
            if kind not in TARGETS or part not in ("", "autoencoder", "dynamics"):
                found.append(f"targets: no {target!r}; {nearest_hint(kind, TARGETS, 'targets')}")
        return found


class LowRankLinear(nn.Linear):
    """A linear layer with a low-rank update; its own weight and bias are those of `layer`, not copies."""

    def __init__(self, layer: nn.Linear, rank: int, scale: float, generator: torch.Generator):
        nn.Module.__init__(self)
        self.in_features, self.out_features, self.scale = layer.in_features, layer.out_features, scale
        self.weight, self.bias = layer.weight, layer.bias
        bound = layer.in_features**-0.5
        down = torch.empty(rank, layer.in_features).uniform_(-bound, bound, generator=generator)
        self.low_rank_down = nn.Parameter(down.to(layer.weight))
        self.low_rank_up = nn.Parameter(torch.zeros(layer.out_features, rank).to(layer.weight))

    def forward(self, input: Tensor) -> Tensor:
        update = F.linear(F.linear(input, self.low_rank_down), self.low_rank_up)
        return F.linear(input, self.weight, self.bias) + self.scale * update


def add_low_rank(part: nn.Module, stage: StageName, section: LoraSection, factor: float, seed: int) -> list[str]:
    """Put updates into the chosen layers of a part, which move at `factor` times the stage's rate; returns their names.

    The order is that of the modules, the same on all ranks.
    """
    patterns = [
        TARGETS[kind] for target in section.targets for own, _, kind in [target.rpartition(".")] if own in ("", stage)
    ]
    chosen = [
        name
        for name, module in part.named_modules()
        if type(module) is nn.Linear and any(re.fullmatch(pattern, name) for pattern in patterns)
    ]
    for name in chosen:
        generator = torch.Generator().manual_seed(seed_number(f"{seed}/{stage}/{name}/low rank"))
        layer = part.get_submodule(name)
        assert isinstance(layer, nn.Linear)
        new = LowRankLinear(layer, section.rank, section.alpha / section.rank, generator).train(layer.training)
        setattr(new, PACES, dict.fromkeys((DOWN, UP), Pace(factor)))
        parent, _, own = name.rpartition(".")
        setattr(part.get_submodule(parent), own, new)
    return chosen


def refuse_idle_targets(model: nn.Module, section: LoraSection) -> None:
    """Raise ValueError for a target without a single linear layer in the model."""
    for target in section.targets:
        part, _, kind = target.rpartition(".")
        parts = [part] if part else ["autoencoder", "dynamics"]
        layers = [name for own in parts for name, m in model.get_submodule(own).named_modules() if type(m) is nn.Linear]
        if not any(re.fullmatch(TARGETS[kind], name) for name in layers):
            there = [k for k, pattern in TARGETS.items() if any(re.fullmatch(pattern, name) for name in layers)]
            raise ValueError(
                f"lora.targets: this model has no linear layer of {target!r}; it has: {', '.join(there) or 'none'}"
            )


def merged(weights: Mapping[str, Tensor], scale: float) -> dict[str, Tensor]:
    """Weights of a part with each update added to its layer's weight, and left out."""
    result = {name: value for name, value in weights.items() if not name.endswith((f".{DOWN}", f".{UP}"))}
    for name, up in weights.items():
        if name.endswith(f".{UP}"):
            layer = name.removesuffix(f".{UP}")
            update = scale * up.double() @ weights[f"{layer}.{DOWN}"].double()
            result[f"{layer}.weight"] = (result[f"{layer}.weight"].double() + update).to(up)
    return result
