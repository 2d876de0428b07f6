"""What the training loop costs over bare PyTorch, what a second rank gains, and the MFU.

    python tests/benchmarks/train_speed.py [--stage dynamics] [--width 128] [--rounds 7] [--steps 6]

One job trains on one rank, another on two, each rank on a core of its own with one thread. They take turns: a job whose
turn it is not waits for its next batch. The job on one rank also runs the same model on the same batches in a bare
PyTorch loop (forward, backward, clipping, fused AdamW). Ratios are of turns next to each other, and their median is
printed. On a machine that is busy with other things only the ratio of processor times means anything.
"""

import argparse
import copy
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from neurochorus.data_shards.batch import Batch
from neurochorus.data_shards.recording import Recording, Segment, Unit
from neurochorus.data_shards.registry import UnitRegistry
from neurochorus.data_shards.settings import parse_settings
from neurochorus.data_shards.writer import write_dataset
from neurochorus.models import NeuralModel, UnitStatistics
from neurochorus.pretrain.config import RunConfig
from neurochorus.pretrain.costs.matrix_product import measured_peak_tflops
from neurochorus.pretrain.distributed import Ranks, process_group
from neurochorus.pretrain.engine import deepspeed_settings
from neurochorus.pretrain.optimizer import make_optimizer, parameter_groups
from neurochorus.pretrain.pretraining import Trainer
from neurochorus.pretrain.run_directory import RunDirectory
from neurochorus.pretrain.stages import Stage, autoencoder_stage, dynamics_stage
from neurochorus.pretrain.stopping import StopRequest
from neurochorus.pretrain.training_data import TrainingData
from neurochorus.pretrain.watch import Watch
from tests.distributed import free_port

MICRO_BATCH, BINS, UNITS = 16, 128, 64
"""Half the samples and half the bins of the preset `small`; fewer, and what ranks tell each other is a larger share."""


class Ended(Exception):
    """All turns were taken."""


class TurnTaking(Trainer):
    """A trainer that is handed its batches in turns; between them it does what else it is asked for."""

    turns: "Turns"

    def _batches(self, *arguments: Any) -> Iterator[Batch]:
        return self.turns.batches(super()._batches(*arguments))


class Turns:
    """Serves one end of a pipe: ("loop" | "bare", n) in, (seconds, processor seconds) of the turn out; ("peak", 1) in,
    TFLOP/s out."""

    def __init__(self, pipe: Connection, bare_step: Callable[[Batch], None]):
        self._pipe, self._bare_step = pipe, bare_step

    def batches(self, source: Iterator[Batch]) -> Iterator[Batch]:
        last: list[Batch] = []
        while True:
            what, count = self._pipe.recv()
            begun = np.array((time.perf_counter(), time.process_time()))
            if what == "loop":
                last = []
                for _ in range(count):
                    last.append(next(source))
                    yield last[-1]
                self._pipe.send(np.array((time.perf_counter(), time.process_time())) - begun)
            elif what == "bare":
                for number in range(count):
                    self._bare_step(last[number % len(last)])
                self._pipe.send(np.array((time.perf_counter(), time.process_time())) - begun)
            elif what == "peak":
                self._pipe.send(np.array(measured_peak_tflops(torch.device("cpu"), "bf16")))
            else:
                raise Ended


def bare_loop(stage: Stage, config: RunConfig) -> Callable[[Batch], None]:
    """One training step of a copy of the stage, with nothing around it."""
    module = copy.deepcopy(stage).train()
    section = getattr(config, stage.name)
    optimizer = make_optimizer(parameter_groups(module, section, config.train.head_learning_rate_factor), section)

    def step(batch: Batch) -> None:
        loss, *_ = module(*stage.prepare(batch))
        (loss / module.valid_bins(batch)).backward()
        nn.utils.clip_grad_norm_(module.parameters(), config.train.gradient_clipping)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def run_rank(pipe: Connection, rank: int, world: int, port: int, values: dict[str, Any], stage_name: str) -> None:
    os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[rank]})
    torch.set_num_threads(1)
    places = {"RANK": rank, "WORLD_SIZE": world, "LOCAL_RANK": rank, "LOCAL_SIZE": world, "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in places.items()}, MASTER_ADDR="127.0.0.1")
    config = parse_settings(RunConfig, values, "benchmark")
    config = replace(config, train=replace(config.train, global_batch=MICRO_BATCH * world))
    with process_group() as ranks, suppress(Ended):
        train(pipe, config, ranks, stage_name)


def train(pipe: Connection, config: RunConfig, ranks: Ranks, stage_name: str) -> None:
    data, directory = TrainingData.open(config), RunDirectory(Path(config.run.dir, f"world_{ranks.world}"))
    directory.prepare(config, ranks, deepspeed_settings(config, ranks.world), {})
    ranks.barrier()
    torch.manual_seed(0)
    model = NeuralModel(config.model, UnitRegistry.from_sessions(data.entries), UnitStatistics.of(data.entries))
    stage = (autoencoder_stage if stage_name == "autoencoder" else dynamics_stage)(model, config.train.precision)
    watch = Watch(config, directory.path, ranks.first)
    stop = StopRequest(directory.path, None, watch_file=ranks.first)
    trainer = TurnTaking(config, data, ranks, directory, stop, watch)
    object.__setattr__(trainer, "turns", Turns(pipe, bare_loop(stage, config)))
    pipe.send(sum(stage.flops(BINS, UNITS).values()) * MICRO_BATCH * BINS)
    trainer.train(stage, getattr(config, stage_name), model.registry)


class Job:
    """The processes of one job, spoken to one turn at a time."""

    def __init__(self, world: int, values: dict[str, Any], stage: str):
        context = multiprocessing.get_context("spawn")
        port = free_port()
        pipes = [context.Pipe() for _ in range(world)]
        self._pipes = [own for own, _ in pipes]
        self._processes = [
            context.Process(target=run_rank, args=(theirs, rank, world, port, values, stage))
            for rank, (_, theirs) in enumerate(pipes)
        ]
        for process in self._processes:
            process.start()
        self.flops = max(pipe.recv() for pipe in self._pipes)
        "FLOPs of a micro-batch."

    def turn(self, what: str, count: int = 1) -> np.ndarray:
        """Seconds and processor seconds a step of the rank that took longest, or the TFLOP/s asked for."""
        for pipe in self._pipes:
            pipe.send((what, count))
        return np.max([pipe.recv() for pipe in self._pipes], axis=0) / count

    def end(self) -> None:
        for pipe, process in zip(self._pipes, self._processes, strict=True):
            with suppress(OSError):
                pipe.send(("end", 0))
            process.join(30)
            process.kill()


def main() -> None:
    arguments = _arguments()
    with tempfile.TemporaryDirectory() as folder:
        write_dataset(_recordings(), Path(folder, "data"), name="train-speed", sample_bins=BINS)
        jobs = [Job(world, _settings(arguments, folder), arguments.stage) for world in (1, 2)]
        try:
            _measure(jobs[0], jobs[1], arguments)
        finally:
            for job in jobs:
                job.end()


def _measure(one: Job, two: Job, arguments: argparse.Namespace) -> None:
    for job in (one, two):
        job.turn("loop", 3)  # first steps allocate
    one.turn("bare", 3)
    loops, bares, pairs, peaks = [], [], [], []
    for _ in range(arguments.rounds):
        loops.append(one.turn("loop", arguments.steps))
        bares.append(one.turn("bare", arguments.steps))
        pairs.append(two.turn("loop", arguments.steps))
        peaks.append(float(one.turn("peak")))
    (loop, loop_cpu), (bare, bare_cpu), (pair, _) = (np.transpose(turns) for turns in (loops, bares, pairs))
    flops, peak = one.flops / 1e12, np.median(peaks)
    print(f"{arguments.stage}, width {arguments.width}: {1e3 * flops:.2f} GFLOPs a step of {MICRO_BATCH} x {BINS} bins")
    print(f"step: {1e3 * np.median(loop):.1f} ms in the loop, {1e3 * np.median(bare):.1f} ms bare (bf16, one core)")
    print(f"overhead: {_ratio(loop, bare)} x bare (aim: at most 1.10); of processor time {_ratio(loop_cpu, bare_cpu)}")
    print(f"two ranks on two cores: {_ratio(2 * loop, pair)} x the samples/s of one (aim: at least 1.8)")
    shares = [flops / np.median(seconds) / peak for seconds in (loop, bare)]
    print(f"MFU: {shares[0]:.1%} in the loop, {shares[1]:.1%} bare, of a matrix product's {1e3 * peak:.1f} GFLOP/s")


def _ratio(first: np.ndarray, second: np.ndarray) -> str:
    """Median and range over the rounds."""
    ratios = first / second
    return f"{np.median(ratios):.3f} ({ratios.min():.3f} to {ratios.max():.3f})"


def _settings(arguments: argparse.Namespace, folder: str) -> dict[str, Any]:
    transformer = {"width": arguments.width, "blocks": 4, "heads": 4}
    stage = {"steps": 100_000}
    return {
        "run": {"dir": f"{folder}/runs"},
        "data": {"path": f"{folder}/data", "workers": 0},
        "model": {
            "autoencoder": {"encoder": {**transformer, "blocks": 2}},
            "dynamics": {"transformer": transformer},
        },
        "autoencoder": stage,
        "dynamics": stage,
        "train": {"micro_batch": MICRO_BATCH, "global_batch": MICRO_BATCH, "log_every": 10},
        "zero": {"stage": arguments.zero},
        "checkpoint": {"every": 100_000},
        "wandb": {"mode": "disabled"},
        "watch": {"peak_tflops": 1.0},
    }


def _recordings() -> Iterator[Recording]:
    generator, trials = np.random.default_rng(0), 64
    for number in range(4):
        yield Recording(
            session_id=f"session-{number}",
            subject_id=f"animal-{number}",
            modality="spikes",
            bin_s=0.01,
            signal_TC=generator.poisson(0.2, (trials * BINS, UNITS)).astype(np.uint8),
            units=[Unit(f"unit-{unit}") for unit in range(UNITS)],
            segments=[Segment(i * BINS, (i + 1) * BINS, "train") for i in range(trials)],
        )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--stage", choices=["autoencoder", "dynamics"], default="dynamics")
    for name, default in (("width", 128), ("zero", 1), ("rounds", 7), ("steps", 6)):
        parser.add_argument(f"--{name}", type=int, default=default)
    return parser.parse_args()


if __name__ == "__main__":
    main()
