"""Loading a checkpoint into an engine on other ranks, or at another ZeRO stage, than those that wrote it.

Every rank takes its own stretches of each parameter from the saved files and hands DeepSpeed an optimizer state in
the form that this engine itself would save. Nothing is converted on disk.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from neurochorus.pretrain.saved_state import (
    WEIGHT,
    Addresses,
    SavedState,
    addresses_in,
    flat_weights,
    pieces_of,
    torch_state,
)


def load_by_name(engine: Any, module: nn.Module, names: list[str], saved: SavedState) -> None:
    """Give a DeepSpeed engine the weights, buffers and optimizer state that were saved. All ranks must call it.

    `names` are those of the trained parameters, in the optimizer's order. Frozen parameters stay as they are. Raises
    ValueError when the checkpoint is of other parameters.
    """
    _refuse_other_parameters(names, saved)
    buffers = saved.buffers()
    for name, buffer in module.named_buffers():
        if name in buffers:
            buffer.copy_(buffers[name])
    stage = engine.zero_optimization_stage()
    if stage < 3:  # at 3 the weights follow from the optimizer's
        with torch.no_grad():
            for name in names:
                module.get_parameter(name).copy_(saved.read(name, WEIGHT))
    if stage == 0:
        engine.optimizer.load_state_dict(_whole_state(engine.optimizer.state_dict(), names, saved))
    else:
        state = _partitioned_state(engine, saved)
        everyone = [state] * dist.get_world_size()  # DeepSpeed looks at this rank's only
        engine.optimizer.load_state_dict(everyone, load_optimizer_states=True, load_from_fp32_weights=True)
    engine.global_steps, engine.skipped_steps = saved.model["global_steps"], saved.model["skipped_steps"]


def _whole_state(template: dict[str, Any], names: list[str], saved: SavedState) -> dict[str, Any]:
    if saved.step is None:
        return template
    state = {
        number: {"step": saved.step.clone(), **{key: saved.read(name, key) for key in saved.moments}}
        for number, name in enumerate(names)
    }
    return {**template, "state": state}


def _partitioned_state(engine: Any, saved: SavedState) -> dict[str, Any]:
    """The state of this rank's part of the optimizer, filled from what was saved."""
    rank, world = dist.get_rank(), dist.get_world_size()
    template: dict[str, Any] = engine.optimizer.state_dict()
    own = addresses_in(template, engine._get_zero_param_shapes(), rank, world)
    addresses: list[Addresses] = [[] for _ in range(world)]
    dist.all_gather_object(addresses, own)  # only all of them together say where in a parameter a stretch begins
    weights = flat_weights(template)
    paddings = template.get("group_paddings") or [0] * len(weights)  # cut off the saved weights, but nothing else
    flat: list[dict[str, Tensor]] = [
        {key: torch.zeros(weight.numel() + padding) for key in (WEIGHT, *saved.moments)}
        for weight, padding in zip(weights, paddings, strict=True)
    ]
    for name, pieces in pieces_of(addresses).items():
        for piece in pieces:
            if piece.rank == rank and piece.numel:
                for key, tensor in flat[piece.group].items():
                    stretch = saved.read(name, key).flatten()[piece.offset : piece.offset + piece.numel]
                    tensor[piece.start : piece.start + piece.numel] = stretch
    filled = dict(template)
    for key, value in template.items():
        if value is weights:
            filled[key] = [tensors[WEIGHT] for tensors in flat]
        elif value is torch_state(template) and saved.step is not None:
            state = {
                group: {"step": saved.step.clone(), **{key: tensors[key] for key in saved.moments}}
                for group, tensors in enumerate(flat)
            }
            filled[key] = {**value, "state": state}
    return filled


def _refuse_other_parameters(names: list[str], saved: SavedState) -> None:
    odd = sorted(set(names) ^ set(saved.names))
    if odd:
        raise ValueError(f"the checkpoint is of a model with other parameters ({', '.join(odd[:5])} differ)")
