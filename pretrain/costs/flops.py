"""Floating-point operations of training, from the sizes of a model.

A weight of a matrix that a token meets once costs 2 operations forward (multiply, add) and 4 backward, attention over T
tokens 2 x 2 T D forward and twice that backward in each block (Chowdhery et al. 2022, PaLM, appendix B):

    FLOPs a token = 6 x sum over matrices (weights x how often a token meets them) + 12 x blocks x D x T

Here a weight costs 4 where its input needs no gradient (signals, frozen latents, noise), and 2 in the frozen encoder.
Causal attention counts in full, as is usual, and activations that are computed again do not count: this is what a
model needs, not what a machine did. Elementwise work is left out.
C units, D width, L latent channels, T bins of a window.
"""

import torch
from torch import nn

from neurochorus.models import Autoencoder, CausalDynamics, Dynamics, JointPhase
from neurochorus.models.backbones import GRU, Transformer
from neurochorus.models.dynamics.diffusion import DiffusionDynamics
from neurochorus.models.dynamics.joint import stretch_bins
from neurochorus.models.dynamics.masked import MaskedDynamics
from neurochorus.models.heads import EnergyHead, FlowHead, GaussianHead, LangevinHead

TRAINED, FIRST, FROZEN = 6, 4, 2
"""Operations a weight and token: with both gradients, with that of the weight only, and forward only."""


def training_flops(trained: nn.Module, frozen: Autoencoder | None, bins: int, units: int) -> dict[str, float]:
    """FLOPs a bin of a training step by part of the model, for windows of `bins` bins from a session of `units` units.

    `trained`: what a stage trains; `frozen`: the autoencoder whose latents it reads, if any. Parameters may be on the
    meta device. Raises TypeError for a module that no stage trains.
    """
    match trained:
        case Autoencoder():
            return autoencoder_flops(trained, bins, units)
        case JointPhase():
            flops = joint_flops(trained, bins)
        case Dynamics():
            flops = dynamics_flops(trained, bins)
        case _:
            raise TypeError(f"{type(trained).__name__} is trained by no stage")
    if frozen is not None:
        flops["frozen encoder"] = encoding_flops(frozen, bins, units)
    return flops


def autoencoder_flops(model: Autoencoder, bins: int, units: int) -> dict[str, float]:
    config = model.config
    decodings = 1 + len(config.future_weights)
    pointwise = 0 if model.decoder is None else weights(model.decoder)
    averages = len(config.future_weights) + config.slow_gain  # products of the signal with a (T, T) matrix
    return {
        "read-in": FIRST * units * config.encoder.width,
        "encoder": backbone_flops(model.encoder, bins) + TRAINED * weights(model.to_latent),
        "decoder": TRAINED * (_elements(model.future_maps) + decodings * pointwise),
        "read-out": TRAINED * decodings * units * config.latents,
        "past and future of units": (FROZEN * averages * bins + FIRST * config.history_bins) * units,
    }


def encoding_flops(model: Autoencoder, bins: int, units: int) -> float:
    """Of the encoder alone, forward only."""
    trained = backbone_flops(model.encoder, bins) + TRAINED * (weights(model.to_latent) + units * model.encoder.width)
    return trained * FROZEN / TRAINED


def dynamics_flops(model: Dynamics, bins: int) -> dict[str, float]:
    patch = model.config.patch_bins
    tokens = max(1, bins // patch)
    flops: dict[str, float] = {}
    match model:
        case CausalDynamics():
            flops["backbone"] = backbone_flops(model.backbone, tokens)
        case MaskedDynamics():
            read = tokens + model.config.masked.buffer_tokens
            flops["backbone"] = backbone_flops(model.transformer, read) * read / tokens
        case DiffusionDynamics():
            flops["backbone"] = backbone_flops(model.transformer, tokens)
            steered = (weights(model.level) + weights(model.output.steer)) / tokens  # once a window
            flops["output"] = TRAINED * (weights(model.output.output) + steered)
    flops["reading"] = FIRST * (weights(model.get_submodule("read")) + covariate_weights(model))
    if not isinstance(model, DiffusionDynamics):
        flops["head"] = head_flops(model.head)
        if model.companion is not None:
            flops["Gaussian companion"] = head_flops(model.companion) * FIRST / TRAINED  # of detached hidden states
    return {part: flops_a_token / patch for part, flops_a_token in flops.items()}


def joint_flops(model: JointPhase, bins: int) -> dict[str, float]:
    """Beside the dynamics' own loss: a context of half a window on average, and the rollouts from its end."""
    dynamics, patch = model.dynamics, model.dynamics.config.patch_bins
    stretch = stretch_bins(dynamics) // patch
    context = max(1, (bins // patch - stretch + 1) // 2)
    a_token = backbone_flops(dynamics.backbone, context) + TRAINED * weights(dynamics.get_submodule("read"))
    tokens = context + model.config.samples * (stretch - 1)
    draws = model.config.samples * stretch * draw_flops(dynamics)
    return {**dynamics_flops(dynamics, bins), "rollouts": (tokens * a_token + draws) / bins}


def draw_flops(dynamics: CausalDynamics) -> float:
    """Of one differentiable draw of the head for a token."""
    head = dynamics.head
    if isinstance(head, FlowHead):
        return TRAINED * head.config.steps * _flow_network(head)
    return TRAINED * weights(head)


def head_flops(head: nn.Module) -> float:
    """FLOPs a token of a head's training loss. Raises TypeError for a head that is not known here."""
    match head:
        case EnergyHead():
            generator = weights(head.blocks) + weights(head.output)
            each = TRAINED * generator + FIRST * weights(head.condition)
            return TRAINED * weights(head.stream) + head.config.samples * each
        case FlowHead():
            each = TRAINED * _flow_network(head) - (TRAINED - FIRST) * (weights(head.state) + weights(head.time))
            if head.step is not None:  # the share with a shortcut: one step with gradients, two half steps without
                each *= 1 + head.config.shortcut_share * (1 + 2 * FROZEN / TRAINED)
            return TRAINED * (weights(head.hidden) + weights(head.source)) + head.config.draws * each
        case LangevinHead():
            sizes = {name: _elements(p) for name, p in head.network.named_parameters()}
            hidden = sizes.pop("hidden_weight")
            state = sum(size for name, size in sizes.items() if name.startswith(("state", "expand", "contract")))
            # the score is a gradient itself, so what lies between state and energy is gone through twice
            each = TRAINED * (sum(sizes.values()) + state)
            return TRAINED * (hidden + weights(head.source)) + head.config.draws * each
        case GaussianHead():
            return TRAINED * weights(head)
    raise TypeError(f"the FLOPs of a {type(head).__name__} are not known")


def backbone_flops(backbone: nn.Module, tokens: int) -> float:
    """FLOPs a token of a backbone that reads `tokens` of them, forward and backward."""
    if isinstance(backbone, Transformer):
        config = backbone.config
        seen = min(tokens, config.attention_window or tokens)
        return TRAINED * weights(backbone) + 2 * TRAINED * config.blocks * config.width * seen
    assert isinstance(backbone, GRU)
    return TRAINED * weights(backbone)


def covariate_weights(model: Dynamics) -> int:
    return 0 if model.covariates is None else weights(model.covariates)


def weights(module: nn.Module | None) -> int:
    """Elements of the matrices of a module: norms and biases multiply nothing."""
    return 0 if module is None else sum(map(_elements, module.parameters()))


def _elements(parameter: nn.Parameter) -> int:
    """Of a whole matrix, also where ZeRO-3 has taken it apart; 0 for a vector."""
    shape = torch.Size(getattr(parameter, "ds_shape", parameter.shape))
    return shape.numel() if len(shape) >= 2 else 0


def _flow_network(head: FlowHead) -> int:
    """Weights that one evaluation of the velocity meets."""
    return sum(weights(part) for part in (head.state, head.time, head.step, head.blocks, head.output))
