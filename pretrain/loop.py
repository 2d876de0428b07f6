"""The training loop of one stage: from batches to trained weights, resumable at every checkpoint.

All randomness of a step is a pure function of (seed, stage, step, rank), and the order of samples of
(seed, samples_seen), so a resumed run repeats an undisturbed one bit for bit without saving any state
but the optimizer's.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from neurochorus.data_shards.batch import Batch
from neurochorus.data_shards.seeds import seed_number
from neurochorus.pretrain.checkpoint import Checkpoints, Position
from neurochorus.pretrain.config import RunConfig, StageSection
from neurochorus.pretrain.distributed import Ranks
from neurochorus.pretrain.engine import Engine
from neurochorus.pretrain.gradient_order import GradientOrder
from neurochorus.pretrain.optimizer import learning_rate
from neurochorus.pretrain.stages import Stage
from neurochorus.pretrain.stopping import StopRequest
from neurochorus.pretrain.watch import Watch


class StoppedEarly(Exception):
    """Training was asked to stop, and has saved a checkpoint; all ranks raise it, and the first one says so."""

    def __init__(self, message: str, first_rank: bool = True):
        super().__init__(message)
        self.first_rank = first_rank


@dataclass(frozen=True)
class StageRun:
    """Everything the loop needs besides the stage itself."""

    config: RunConfig
    section: StageSection
    ranks: Ranks
    batches_from: Callable[[int], Iterator[Batch]]
    """samples_seen -> this rank's micro-batches from there on."""
    fingerprint: dict[str, str]
    stop: StopRequest
    watch: Watch
    folder: Path
    """Where this stage's checkpoints go."""
    resume_from: Path | None = None


def train_stage(stage: Stage, run: StageRun) -> dict[str, Tensor]:
    """Train the stage to its last step and return the trained weights (on the CPU, on every rank).

    Raises StoppedEarly after saving when asked to stop, FloatingPointError after too many skipped steps.
    """
    engine = Engine(stage, run.config, run.section, run.ranks)
    try:
        return _train(stage, engine, run)
    finally:
        engine.close()


def _train(stage: Stage, engine: Engine, run: StageRun) -> dict[str, Tensor]:
    config, ranks = run.config, run.ranks
    checkpoints = Checkpoints(run.folder, config.checkpoint.keep, ranks)
    position = checkpoints.resume(engine, run.fingerprint, run.resume_from)
    start = position.step if position else 0
    seen = position.samples_seen if position else 0
    if position:
        run.watch.say(f"{stage.name}: resumed at step {start} ({seen} samples seen)")
    batches = run.batches_from(seen)
    order = GradientOrder(stage, ranks)
    skipped = 0
    run.watch.begin(stage.name, start, run.section.steps)
    stage.train()
    for step in range(start, run.section.steps):
        seed_step(config.run.seed, stage.name, step, ranks.rank)
        waiting = time.perf_counter()
        micro_batches = [next(batches).to(ranks.device, non_blocking=True) for _ in range(engine.accumulation)]
        waited = time.perf_counter() - waiting
        rate = learning_rate(step, run.section)
        engine.set_learning_rate(rate)
        sums, stop_wanted = _step(stage, engine, micro_batches, ranks, run.stop.wanted())
        order.check(step)
        seen += config.train.global_batch
        skipped = 0 if engine.step_applied else skipped + 1
        if skipped:
            _refuse_skips(skipped, step, micro_batches, config.train.max_skipped_steps, run.watch)
        run.watch.step(stage.name, step + 1, seen, sums, rate, engine.gradient_norm, waited)
        last = step + 1 == run.section.steps
        if (step + 1) % config.checkpoint.every == 0 or last or stop_wanted:
            with run.watch.timed("checkpoint"):
                checkpoints.save(engine, Position(step + 1, seen, ranks.world, run.fingerprint))
        if stop_wanted and not last:
            raise StoppedEarly(
                f"{stage.name} stopped at step {step + 1}: {run.stop.reason or 'another rank was asked'}", ranks.first
            )
    run.watch.end(stage.name)
    return {name.removeprefix("trained."): value for name, value in engine.state_dict().items()}


def _step(
    stage: Stage, engine: Engine, micro_batches: list[Batch], ranks: Ranks, stop_wanted: bool
) -> tuple[dict[str, Tensor], bool]:
    """One optimizer step: the parts of the loss per valid bin of the global batch, and whether any rank would stop."""
    valid = torch.stack([stage.valid_bins(batch) for batch in micro_batches]).sum()
    # one collective for the normaliser, the bins and the stop flags of all ranks
    bins = torch.stack([batch.bin_mask_BT.sum() for batch in micro_batches]).sum()
    valid_total, bins_total, stops = ranks.sum(
        torch.stack((valid, bins, torch.tensor(int(stop_wanted), device=valid.device))).double()
    )
    if valid_total == 0:  # the same on all ranks
        raise ValueError(
            f"no bin of a batch of the stage {stage.name} is scored: its windows have at most the "
            f"{stage.burn_in_bins} bins of model.autoencoder.burn_in_bins; make that smaller, or windows longer"
        )
    totals: dict[str, Tensor] = {}
    for batch in micro_batches:
        loss, _, parts = engine(*stage.prepare(batch))
        # DeepSpeed averages over ranks and over the accumulation: undo both, divide by the global count
        engine.backward_and_step(loss * (ranks.world * engine.accumulation / valid_total).float())
        for name, part in {"loss": loss.detach(), **parts}.items():
            totals[name] = totals.get(name, torch.zeros_like(part)) + part
    summed = ranks.sum(torch.stack([value.float() for value in totals.values()]))
    result = {name: value / valid_total for name, value in zip(totals, summed, strict=True)}
    return {**result, "bins": bins_total}, bool(stops > 0)


def seed_step(seed: int, stage: str, step: int, rank: int) -> None:
    """Set PyTorch's generators for one step of one rank."""
    torch.manual_seed(seed_number(f"{seed}/{stage}/{step}/{rank}"))


def _refuse_skips(skipped: int, step: int, micro_batches: list[Batch], limit: int, watch: Watch) -> None:
    samples = ", ".join(name for batch in micro_batches for name in batch.sample_ids[:4])
    watch.say(
        f"step {step + 1} was skipped: non-finite gradient ({skipped} in a row); this rank's samples: {samples}, ..."
    )
    if skipped >= limit:
        raise FloatingPointError(
            f"{skipped} steps in a row had a non-finite gradient, the last was step {step + 1}: lower the learning "
            "rate, or look at the samples named above"
        )
