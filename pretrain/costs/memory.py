"""Memory of a training step on one device at each ZeRO stage, from the number of parameters and the activations.

P bytes of float32 parameters on W ranks; AdamW keeps two moments, ZeRO a master copy of its share, 1 / W, besides:

    ZeRO        weights   gradients   optimizer   more, while stepping
    0           P         P           2 P         gradients side by side, to be reduced
    1           P         P           3 P / W     this rank's share of the gradients side by side: P / W
    2           P         P / W       3 P / W     the same
    3           P / W     P / W       3 P / W     the same

Gradients of ZeRO-0, 1 and 2 are freed after each step, so with one micro-batch a step they are not there when the
activations are at their most. ZeRO-1 and 2 fill a bucket during the backward pass, ZeRO-3 has one for good and holds
gathered parameters. Measured against what DeepSpeed allocates in tests/pretrain/test_memory.py.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

FLOAT = 4
"""Bytes of a weight, gradient or moment: bf16 is autocast, and everything that is kept is float32."""
ZERO_0_BUCKET = 500_000_000
"""Elements that DeepSpeed reduces together without ZeRO, where its settings have no say."""


@dataclass(frozen=True)
class DeviceMemory:
    """Bytes on one device, and in the host's memory for it where something is offloaded."""

    zero_stage: int
    weights: int
    gradients: int
    optimizer: int
    average: int
    """A share of the running average of the weights (train.ema)."""
    buffers: int
    """Buckets of gradients, parameters gathered by ZeRO-3, and the frozen autoencoder of stage 2."""
    around: int
    """What is there beside the activations when they are at their most."""
    elsewhere: int
    """The most that is there while the run starts or the optimizer steps, when there are no activations."""
    host: int = 0

    def peak(self, activations: int) -> int:
        """The most that is there at once, which is less than the sum; `activations` of one micro-batch."""
        return max(self.around + activations, self.elsewhere)


@dataclass(frozen=True)
class Sizes:
    """What the memory of a stage depends on besides the ZeRO stage, in bytes."""

    parameters: int
    small: int
    """Of parameters so small that ZeRO-3 keeps them whole on every rank."""
    frozen: int
    """Of what is there and not trained."""

    @classmethod
    def of(cls, trained: nn.Module, frozen: nn.Module | None, threshold: int) -> "Sizes":
        """`frozen`: another module on the device; `threshold`: elements below which a parameter is small."""
        counts = [p.numel() for p in trained.parameters()]
        small = sum(count for count in counts if count < threshold)
        fixed = [] if frozen is None else [*frozen.parameters(), *frozen.buffers()]
        fixed += trained.buffers()
        return cls(FLOAT * sum(counts), FLOAT * small, sum(t.numel() * t.element_size() for t in fixed))


def device_memory(
    sizes: Sizes, zero: Mapping[str, Any], world: int, accumulation: int, average: bool = False
) -> DeviceMemory:
    """Memory of a step; `zero` is the `zero_optimization` part of the derived DeepSpeed settings.

    `accumulation`: micro-batches a step; `average`: whether a running average of the weights is kept.
    """
    stage, whole = zero["stage"], sizes.parameters
    share = whole // world
    optimizer = 2 * whole if stage == 0 else 3 * share
    gradients = whole if stage < 2 else share
    weights = whole if stage < 3 else share + sizes.small * (world - 1) // world
    gathered = 0 if stage < 3 else min(whole - weights, FLOAT * zero["stage3_max_live_parameters"])
    bucket = 0 if stage == 0 else FLOAT * zero["reduce_bucket_size"]
    host = 0
    if "offload_optimizer" in zero:
        host, optimizer = optimizer + share, 0
    if "offload_param" in zero:
        host, weights = host + weights, 0
    kept_average = share if average else 0
    resident = weights + optimizer + kept_average + sizes.frozen + (gradients + bucket if stage == 3 else 0)
    accumulated = gradients if accumulation > 1 and stage < 3 else 0
    around = resident + accumulated + gathered + (bucket if stage in (1, 2) else 0)
    side_by_side = min(whole, FLOAT * ZERO_0_BUCKET) if stage == 0 else share
    step = resident + side_by_side + (gradients if stage < 3 else 0)
    start = 0 if stage == 0 else whole + (whole if stage < 3 else share)  # flat copies are made of a whole model
    return DeviceMemory(
        zero_stage=stage,
        weights=weights,
        gradients=gradients,
        optimizer=optimizer,
        average=kept_average,
        buffers=bucket + gathered + sizes.frozen,
        around=around,
        elsewhere=max(step, start),
        host=host,
    )
