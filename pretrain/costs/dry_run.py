"""What a run would cost, from its settings alone: no device, no process group, no memory for weights.

A lower bound, as launches of kernels, collectives, waiting for data and the optimizer are in no FLOPs:

    hours = steps x samples a step x bins a sample x FLOPs a bin / (ranks x peak FLOP/s x MFU) / 3600

MFU, model FLOPs utilisation: the share of a device's peak that goes into the model's own FLOPs (flops.py).
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from neurochorus.data_shards.registry import UnitRegistry
from neurochorus.models import JointPhase, NeuralModel
from neurochorus.models.units import Table
from neurochorus.pretrain.config import RunConfig, ZeroSection
from neurochorus.pretrain.costs.activations import Device, activation_bytes
from neurochorus.pretrain.costs.memory import DeviceMemory, Sizes, device_memory
from neurochorus.pretrain.costs.workload import Assumed, Workload, workload
from neurochorus.pretrain.covariates import with_widths
from neurochorus.pretrain.engine import accumulation_steps, deepspeed_settings
from neurochorus.pretrain.pretraining import stages_of
from neurochorus.pretrain.stages import Stage, autoencoder_stage, dynamics_stage, joint_stage
from neurochorus.pretrain.watching.drawn import epochs_by_source

TABLES = "tables of units and sessions"
RECOMPUTED = ("none", "selective", "full")


@dataclass(frozen=True)
class Hardware:
    """What a run would be given."""

    world: int
    peak_tflops: float
    """Of one device, at the precision of the run."""
    mfu: float
    device: Device = "gpu"


@dataclass(frozen=True)
class StageCosts:
    """What training one stage costs; memory is of one device, in bytes."""

    stage: str
    parameters: dict[str, int]
    flops_per_bin: dict[str, float]
    steps: int
    samples: int
    hours: float
    activations: dict[str, int]
    """Of a micro-batch, for each value of train.activation_checkpointing."""
    memory: list[DeviceMemory]
    """At ZeRO-0, 1, 2, 3, and the same with the optimizer (and parameters, at 3) offloaded where that is possible."""
    epochs: dict[str, float]
    """Subject -> how often its samples are gone through; empty where the data are assumed."""

    @property
    def seconds_a_step(self) -> float:
        """As `hours`, a lower bound: of the model's arithmetic alone."""
        return self.hours * 3600 / self.steps


@dataclass(frozen=True)
class RunCosts:
    config: RunConfig
    hardware: Hardware
    workload: Workload
    stages: list[StageCosts]


def dry_run(config: RunConfig, hardware: Hardware, assumed: Assumed | None) -> RunCosts:
    """The costs of every stage that the run would train; `assumed` where its data are not there.

    Raises ValueError for settings, data and a number of ranks that do not fit together.
    """
    accumulation_steps(config, hardware.world)
    work = workload(config, assumed)
    if work.plan is not None:
        config = replace(config, model=with_widths(config.model, work.entries))
    return RunCosts(config, hardware, work, [_stage_costs(config, hardware, work, name) for name in stages_of(config)])


def _stage_costs(config: RunConfig, hardware: Hardware, work: Workload, name: str) -> StageCosts:
    stage = _stage_without_memory(config, work, name)
    flops = stage.flops(round(work.mean_bins), round(work.mean_units))
    steps = getattr(config, name).steps
    samples = steps * config.train.global_batch
    rate = hardware.world * hardware.peak_tflops * 1e12 * hardware.mfu
    sizes = (config.train.micro_batch, work.longest_bins, work.largest_session)
    activations = {
        recomputed: activation_bytes(
            _stage_without_memory(config, work, name),
            replace(config.train, activation_checkpointing=recomputed),
            *sizes,
            hardware.device,
        )
        for recomputed in RECOMPUTED
    }
    return StageCosts(
        stage=name,
        parameters=parameters_by_part(stage.trained),
        flops_per_bin=flops,
        steps=steps,
        samples=samples,
        hours=samples * work.mean_bins * sum(flops.values()) / rate / 3600,
        activations=activations,
        memory=list(_memory_at_each_stage(config, hardware.world, stage)),
        epochs=_epochs_by_subject(work, name, samples),
    )


def _stage_without_memory(config: RunConfig, work: Workload, name: str) -> Stage:
    with torch.device("meta"):
        model = NeuralModel(config.model, UnitRegistry.from_sessions(work.entries))
        make = {"autoencoder": autoencoder_stage, "dynamics": dynamics_stage, "joint": joint_stage}[name]
        return make(model, config.train.precision)


def parameters_by_part(module: nn.Module) -> dict[str, int]:
    """Number of parameters by direct child; tables of units and sessions together, and what is in no child."""
    if isinstance(module, JointPhase):
        return parameters_by_part(module.dynamics)
    counts: Counter[str] = Counter()
    for name, child in module.named_children():
        counts[TABLES if isinstance(child, Table) else name] += sum(p.numel() for p in child.parameters())
    counts["other"] = sum(p.numel() for p in module.parameters(recurse=False))
    return {name: count for name, count in counts.items() if count}


def _memory_at_each_stage(config: RunConfig, world: int, stage: Stage) -> Iterator[DeviceMemory]:
    sizes = Sizes.of(stage.trained, stage.frozen(), config.zero.persistence_threshold)
    accumulation = accumulation_steps(config, world)
    for offload in (False, True):
        for number in (1, 2, 3) if offload else (0, 1, 2, 3):
            options: dict[str, Any] = {"offload_optimizer": offload, "offload_parameters": offload and number == 3}
            zero = ZeroSection(stage=number, persistence_threshold=config.zero.persistence_threshold, **options)
            derived = deepspeed_settings(replace(config, zero=zero), world)["zero_optimization"]
            yield device_memory(sizes, derived, world, accumulation, config.train.ema is not None)


def _epochs_by_subject(work: Workload, stage: str, samples: int) -> dict[str, float]:
    if work.plan is None:
        return {}
    plan = work.plan(stage)
    drawn = plan.drawn(samples // plan.group * plan.group)
    subjects = {entry.session_id: entry.subject_id for entry in work.entries}
    return epochs_by_source(plan, drawn, subjects)
