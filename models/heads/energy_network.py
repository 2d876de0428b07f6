"""The scalar network of the Langevin head and its gradient, in one module.

f(x, h, level) is an adaLN MLP with one output that starts at zero. Its gradient in x is taken by autograd inside the
module's own forward, and all parameters belong to this very module: under ZeRO-3 parameters are only there during
the forward of the module that owns them, and what the gradient needs must be there twice. float32 throughout.
L latent channels, D width of the hidden state, W width.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from neurochorus.models.heads.base import waves


class EnergyNetwork(nn.Module):
    def __init__(self, hidden: int, latents: int, width: int, blocks: int, level_features: int):
        super().__init__()
        self.width, self.blocks, self.level_features = width, blocks, level_features
        self._add("state", latents, width)
        self._add("hidden", hidden, width)
        self._add("level", level_features, width)
        for block in range(blocks):
            self._add(f"steer_{block}", width, 3 * width, zero=True)
            self._add(f"expand_{block}", width, width)
            self._add(f"contract_{block}", width, width)
        self._add("steer_output", width, 2 * width, zero=True)
        self.output_weight = nn.Parameter(torch.zeros(1, width))  # no bias: energies are up to a constant

    def _add(self, name: str, inputs: int, outputs: int, zero: bool = False) -> None:
        bound = 0.0 if zero else inputs**-0.5
        self.register_parameter(f"{name}_weight", nn.Parameter(torch.empty(outputs, inputs).uniform_(-bound, bound)))
        self.register_parameter(f"{name}_bias", nn.Parameter(torch.empty(outputs).uniform_(-bound, bound)))

    def forward(self, state: Tensor, hidden: Tensor, level: Tensor) -> tuple[Tensor, Tensor]:
        """f (...) and df/dstate (..., L) of state (..., L), hidden (..., D) and level (..., 1) in [0, 1].

        Where gradients are enabled both can be differentiated further, by the parameters and by `hidden`.
        """
        differentiable = torch.is_grad_enabled()
        with torch.enable_grad(), torch.autocast(state.device.type, enabled=False):
            state = state.detach().float().requires_grad_()
            value = self._value(state, hidden.float(), level.float())
            (slope,) = torch.autograd.grad(value.sum(), state, create_graph=differentiable)
        return (value, slope) if differentiable else (value.detach(), slope)

    def _value(self, state: Tensor, hidden: Tensor, level: Tensor) -> Tensor:
        condition = self._linear("hidden", hidden) + self._linear("level", waves(level, self.level_features))
        condition = F.silu(condition)
        x = self._linear("state", state)
        for block in range(self.blocks):
            shift, scale, gate = self._linear(f"steer_{block}", condition).chunk(3, dim=-1)
            steered = F.layer_norm(x, (self.width,)) * (1 + scale) + shift
            x = x + gate * self._linear(f"contract_{block}", F.silu(self._linear(f"expand_{block}", steered)))
        shift, scale = self._linear("steer_output", condition).chunk(2, dim=-1)
        features = F.silu(F.layer_norm(x, (self.width,)) * (1 + scale) + shift)
        return F.linear(features, self.output_weight).squeeze(-1)

    def _linear(self, name: str, x: Tensor) -> Tensor:
        return F.linear(x, self.get_parameter(f"{name}_weight"), self.get_parameter(f"{name}_bias"))
