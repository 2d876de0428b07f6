"""Memory of activations: a training step of a stage on tensors that have shapes and types but no memory.

The stage is made on PyTorch's meta device and run, forward and backward, with FakeTensorMode, which computes nothing.
So any head, order and backbone is covered, and the peak is exact but for what kernels allocate and free by themselves.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._pytree import tree_leaves

from neurochorus.data_shards.batch import Batch
from neurochorus.models import JointPhase
from neurochorus.models.backbones.transformer import Attention
from neurochorus.models.dynamics.joint import stretch_bins
from neurochorus.pretrain.blocks import prepare_blocks
from neurochorus.pretrain.config import TrainSection
from neurochorus.pretrain.costs.live_bytes import LiveBytes
from neurochorus.pretrain.stages import Stage

Device = Literal["gpu", "cpu"]


def activation_bytes(stage: Stage, train: TrainSection, samples: int, bins: int, units: int, device: Device) -> int:
    """Most bytes that a micro-batch of one session takes beside the weights and one gradient of each.

    `stage` is on the meta device and for this alone: what runs in it is changed.
    """
    prepare_blocks(stage, replace(train, compile=False))
    if device == "gpu":
        _use_kernels_of_gpus(stage, train.precision)
    with FakeTensorMode(allow_non_fake_inputs=True), torch.device("cpu"):
        stage.to("cpu")  # fake, and so without memory
        inputs = stage.prepare(_batch(samples, bins, units, _covariate_columns(stage)))
        _unroll_late(stage, bins)
        return _peak(stage.train(), inputs)


def _peak(stage: Stage, inputs: tuple[Any, ...]) -> int:
    for parameter in stage.parameters():
        parameter.grad = torch.zeros_like(parameter)
    there = [*stage.parameters(), *stage.buffers(), *(p.grad for p in stage.parameters() if p.grad is not None)]
    parts = [vars(value) if hasattr(value, "__dict__") else value for value in inputs]
    there += [leaf for leaf in tree_leaves(parts) if isinstance(leaf, Tensor)]
    with LiveBytes(there) as live:
        loss, *_ = stage(*inputs)
        loss.backward()
    return live.peak


def _batch(samples: int, bins: int, units: int, columns: int) -> Batch:
    numbers = torch.ones(samples, dtype=torch.long)
    return Batch(
        signal_BTC=torch.zeros(samples, bins, units, dtype=torch.uint8),
        unit_rows_BC=torch.ones(1, units, dtype=torch.long),
        bin_mask_BT=torch.ones(samples, bins, dtype=torch.bool),
        session_B=numbers,
        subject_B=numbers,
        covariates_BTK=torch.zeros(samples, bins, columns),
        covariate_mask_BTK=torch.ones(samples, bins, columns, dtype=torch.bool),
        sample_ids=["fake"] * samples,
    )


def _covariate_columns(stage: Stage) -> int:
    trained = stage.trained.dynamics if isinstance(stage.trained, JointPhase) else stage.trained
    covariates = getattr(trained, "covariates", None)
    return 0 if covariates is None else len(covariates.mean)


def _unroll_late(stage: Stage, bins: int) -> None:
    """Let the joint phase unroll from as late as it can: a fake tensor cannot say where it drew to start."""
    trained = stage.trained
    if isinstance(trained, JointPhase):
        patch = trained.dynamics.config.patch_bins
        latest = patch * ((bins - stretch_bins(trained.dynamics)) // patch)
        trained.draw_start = lambda sequence: latest  # pyright: ignore[reportAttributeAccessIssue]


def _use_kernels_of_gpus(stage: Stage, precision: str) -> None:
    """Give the stage the fused operations of GPUs where CPUs take several, which keep more for the backward pass."""
    for module in stage.modules():
        match module:
            case nn.Dropout():
                module.forward = partial(_dropout, module.p)  # pyright: ignore[reportAttributeAccessIssue]
            case nn.RMSNorm():
                module.forward = partial(_rms_norm, module)
            case Attention() if precision == "bf16":
                module.attend = partial(_attend_in_half, module.attend)  # pyright: ignore[reportAttributeAccessIssue]


def _dropout(share: float, x: Tensor) -> Tensor:
    return torch.native_dropout(x, share, True)[0] if share else x


def _rms_norm(norm: nn.RMSNorm, x: Tensor) -> Tensor:
    return torch.ops.aten._fused_rms_norm(x, list(norm.normalized_shape), norm.weight, norm.eps)[0]


def _attend_in_half(attend: Callable[..., Tensor], query: Tensor, key: Tensor, value: Tensor, *more: Any) -> Tensor:
    return attend(query.bfloat16(), key.bfloat16(), value.bfloat16(), *more)
