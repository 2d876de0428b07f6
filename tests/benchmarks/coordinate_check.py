"""How much one learning rate changes activations at several widths, with and without width transfer (muP).

    python -m tests.benchmarks.coordinate_check

The coordinate check of Tensor Programs V (Yang et al. 2021, appendix D.1): after some steps the change of an activation
should have the same size at every width. Printed is its root mean square, and the exponent of its growth with width.
"""

import math

import numpy as np
import torch
from torch import Tensor

from neurochorus.data_shards.registry import UnitRegistry
from neurochorus.models import (
    AutoencoderConfig,
    DynamicsConfig,
    LatentSequence,
    ModelConfig,
    NeuralModel,
    TransformerConfig,
    UnitStatistics,
)
from neurochorus.pretrain.config import StageSection
from neurochorus.pretrain.optimizer import make_optimizer, parameter_groups
from neurochorus.pretrain.width_transfer import transfer_width
from tests.models.conftest import entry

WIDTHS = (32, 64, 128, 256)
BASE_WIDTH, HEAD_WIDTH, LATENTS, STEPS = 32, 16, 4, 4
SECTION = StageSection(steps=STEPS, learning_rate=0.002)


def model_of_width(width: int, base_width: int | None, seed: int = 0) -> NeuralModel:
    torch.manual_seed(seed)
    transformer = TransformerConfig(width=width, blocks=2, heads=width // HEAD_WIDTH, dropout=0.0)
    dynamics = DynamicsConfig(transformer=transformer, history_noise=0.0, condition_dropout=0.0)
    autoencoder = AutoencoderConfig(latents=LATENTS, encoder=transformer)
    entries = [entry("a_s1", "a", 5)]
    config = ModelConfig(head="gaussian", autoencoder=autoencoder, dynamics=dynamics)
    model = NeuralModel(config, UnitRegistry.from_sessions(entries), UnitStatistics.of(entries))
    transfer_width(model, base_width)
    return model


def latents(seed: int) -> LatentSequence:
    generator = torch.Generator().manual_seed(seed)
    ones = torch.ones(8, dtype=torch.long)
    return LatentSequence(
        latent_BTL=torch.randn(8, 16, LATENTS, generator=generator).cumsum(dim=1) / 3,
        mask_BT=torch.ones(8, 16, dtype=torch.bool),
        session_B=ones,
        subject_B=ones,
        covariates_BTK=torch.zeros(8, 16, 0),
        covariate_mask_BTK=torch.zeros(8, 16, 0, dtype=torch.bool),
    )


def changes(width: int, base_width: int | None, seed: int = 0) -> dict[str, float]:
    """Root mean square change, over STEPS steps, of what each part of the dynamics gives for the same input."""
    dynamics = model_of_width(width, base_width, seed).dynamics
    seen: dict[str, Tensor] = {}
    for name, module in dynamics.named_modules():
        if name.endswith((".attention", ".contract")) or name == "transformer":
            module.register_forward_hook(lambda _m, _i, out, name=name: seen.__setitem__(name, out.detach()))
    optimizer = make_optimizer(groups := parameter_groups(dynamics, SECTION, head_factor=1.0), SECTION)
    for group in groups:
        group["lr"] = SECTION.learning_rate * group["factor"]
    dynamics(latents(0))
    before = dict(seen)
    for _ in range(STEPS):
        loss, count, _ = dynamics(latents(0))
        optimizer.zero_grad()
        (loss / count).backward()
        optimizer.step()
    dynamics(latents(0))
    return {name: float((seen[name] - before[name]).square().mean().sqrt()) for name in before}


def exponents(table: dict[int, dict[str, float]]) -> dict[str, float]:
    """Slope of log(change) against log(width) of each part."""
    logs = [math.log(width) for width in table]
    return {
        name: float(np.polyfit(logs, [math.log(row[name]) for row in table.values()], 1)[0])
        for name in next(iter(table.values()))
    }


def main() -> None:
    for title, base in (("one learning rate", None), (f"transferred from width {BASE_WIDTH}", BASE_WIDTH)):
        table = {width: changes(width, base) for width in WIDTHS}
        slopes = exponents(table)
        print(f"\n{title}\n{'':32}" + "".join(f"{width:>9}" for width in WIDTHS) + " exponent")
        for name, slope in slopes.items():
            print(f"{name:32}" + "".join(f"{row[name]:9.4f}" for row in table.values()) + f"{slope:9.2f}")


if __name__ == "__main__":
    main()
