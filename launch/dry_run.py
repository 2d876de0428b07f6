"""`launch/pretrain.py --dry-run`: its options, and what it prints."""

import sys
from collections.abc import Callable, Mapping

from jsonargparse import ArgumentParser, Namespace
from rich.console import Console
from rich.table import Table

from neurochorus.pretrain.config import RunConfig
from neurochorus.pretrain.costs.dry_run import Hardware, RunCosts, StageCosts, dry_run
from neurochorus.pretrain.costs.workload import Assumed

GIB = 2**30
FORMULA = "6 x weights a token meets + 12 x blocks x width x tokens a window (pretrain/costs/flops.py)"
SHORT_STEP_S = 0.02
"""Of a step that is so short most is not the model's arithmetic."""
MANY = 12
"""Subjects that are listed one by one."""


def add_dry_run(parser: ArgumentParser) -> None:
    """Add --dry-run and what it is told about the machines."""
    parser.add_argument("--dry-run", action="store_true", help="print what the run would cost, and start nothing")
    parser.add_argument("--world", type=int, default=1, help="dry run: number of ranks")
    parser.add_argument(
        "--peak-tflops", type=float, default=989.0, help="dry run: of one device (default: H100 SXM, dense bf16)"
    )
    parser.add_argument(
        "--mfu",
        type=float,
        default=0.3,
        help="dry run: share of the peak that is reached; 0.3 is a guess, not measured on any GPU: time 100 steps and "
        "read mfu in metrics.jsonl",
    )
    parser.add_argument("--device", choices=["gpu", "cpu"], default="gpu", help="dry run: whose kernels, for memory")
    parser.add_argument(
        "--assume",
        default=None,
        metavar="SESSIONSxUNITSxBINS",
        help="dry run: where data.path does not exist, take so many sessions of so many units each, in samples of so "
        "many bins, such as 100x200x256",
    )


def run_dry(configure: Callable[[], RunConfig], options: Namespace) -> int:
    """Print the costs of a run; returns the exit status."""
    try:
        if options.world < 1 or not options.peak_tflops > 0 or not 0 < options.mfu <= 1:
            raise ValueError("--world and --peak-tflops must be positive, --mfu a share above 0")
        hardware = Hardware(options.world, options.peak_tflops, options.mfu, options.device)
        assumed = None if options.assume is None else Assumed.parse(options.assume)
        show_costs(dry_run(configure(), hardware, assumed))
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def show_costs(costs: RunCosts, console: Console | None = None) -> None:
    """Print the costs of a run, a stage after the other."""
    console = console or Console(width=120, highlight=False, soft_wrap=True)
    config, hardware, work = costs.config, costs.hardware, costs.workload
    units = sum(len(entry.units) for entry in work.entries)
    what = ", ".join(config.data.paths) if work.plan is not None else "assumed (--assume; no data at data.path)"
    console.print(
        f"data: {what}: {len(work.entries)} sessions, {units:,} units; windows of {work.mean_bins:,.0f} bins on "
        f"average, {work.longest_bins} at most"
    )
    accumulation = config.train.global_batch // (config.train.micro_batch * hardware.world)
    console.print(
        f"batch: {config.train.global_batch} samples a step = {hardware.world} ranks x {config.train.micro_batch} x "
        f"{accumulation} accumulated; {config.train.precision}"
    )
    total = 0.0
    for stage in costs.stages:
        total += stage.hours
        _show_stage(stage, costs, console)
    console.print(
        f"\nat least {total:,.2f} hours in all on {hardware.world} x {hardware.peak_tflops:g} TFLOP/s at an MFU of "
        f"{hardware.mfu:.0%}, without evaluation and checkpoints"
    )
    if any(0 < stage.seconds_a_step < SHORT_STEP_S for stage in costs.stages):
        console.print(
            f"  steps of less than {SHORT_STEP_S * 1e3:.0f} ms: kernel launches and collectives will dominate, so "
            "the run takes longer; time 100 steps"
        )


def _show_stage(stage: StageCosts, costs: RunCosts, console: Console) -> None:
    console.print(f"\n{stage.stage}: {sum(stage.parameters.values()) / 1e6:,.2f} M parameters")
    console.print(_parts({name: f"{count / 1e6:,.3f} M" for name, count in stage.parameters.items()}))
    flops = stage.flops_per_bin
    console.print(f"  {sum(flops.values()) / 1e6:,.2f} MFLOPs a bin: {FORMULA}")
    console.print(_parts({name: f"{value / 1e6:,.2f}" for name, value in flops.items()}))
    console.print(
        f"  {stage.steps:,} steps, {stage.samples:,} samples, "
        f"{stage.samples * costs.workload.mean_bins:.3g} bins: at least {stage.hours:,.2f} hours, "
        f"{stage.seconds_a_step * 1e3:,.3g} ms a step"
    )
    if stage.epochs:
        console.print(_epochs(stage.epochs))
    activations = {name: f"{size / GIB:.2f}" for name, size in stage.activations.items()}
    console.print("  activations of a micro-batch in GiB, by train.activation_checkpointing:")
    console.print(_parts(activations))
    console.print(_memory_table(stage, costs.config))


def _parts(parts: Mapping[str, str]) -> str:
    return "    " + ", ".join(f"{name} {value}" for name, value in parts.items())


def _epochs(epochs: Mapping[str, float]) -> str:
    if len(epochs) <= MANY:
        return "  epochs by subject:\n" + _parts({name: f"{count:,.1f}" for name, count in epochs.items()})
    least, most = min(epochs, key=epochs.__getitem__), max(epochs, key=epochs.__getitem__)
    return (
        f"  epochs by subject: {epochs[least]:,.1f} ({least}) to {epochs[most]:,.1f} ({most}) over "
        f"{len(epochs)} subjects"
    )


def _memory_table(stage: StageCosts, config: RunConfig) -> Table:
    table = Table(title="  GiB a device", title_justify="left", box=None, padding=(0, 1), title_style="none")
    parts = ("weights", "gradients", "optimizer", "average", "buffers")
    for name in ("ZeRO", *parts, *(f"peak, {kept}" for kept in stage.activations), "in host memory"):
        table.add_column(name, justify="right")
    for memory in stage.memory:
        chosen = memory.zero_stage == config.zero.stage and bool(memory.host) == config.zero.offload_optimizer
        name = f"{'* ' if chosen else ''}{memory.zero_stage}{' offload' if memory.host else ''}"
        peaks = [memory.peak(activations) for activations in stage.activations.values()]
        values = [*(getattr(memory, part) for part in parts), *peaks, memory.host]
        table.add_row(name, *(f"{value / GIB:.2f}" for value in values))
    return table
