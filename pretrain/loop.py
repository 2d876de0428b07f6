"""The training loop of one stage: from batches to trained weights, resumable at every checkpoint.

All randomness of a micro-batch is a pure function of (seed, stage, step, its number in the global batch), and the
order of samples of (seed, samples_seen). So a resumed run repeats an undisturbed one bit for bit without saving any
state but the optimizer's, and the noise of a sample does not depend on the number of ranks.
"""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from neurochorus.data_shards.batch import Batch
from neurochorus.data_shards.loader import lost_workers_named
from neurochorus.data_shards.seeds import seed_number
from neurochorus.pretrain.checkpoint import Checkpoints
from neurochorus.pretrain.config import RunConfig, StageSection
from neurochorus.pretrain.distributed import Ranks
from neurochorus.pretrain.early_stopping import EarlyStopping
from neurochorus.pretrain.engine import Engine
from neurochorus.pretrain.fingerprint import Fingerprint
from neurochorus.pretrain.gradient_order import GradientOrder
from neurochorus.pretrain.hang_watch import HangWatch
from neurochorus.pretrain.position import Position
from neurochorus.pretrain.retention import Retention
from neurochorus.pretrain.schedules import learning_rate
from neurochorus.pretrain.stages import Stage
from neurochorus.pretrain.stopping import StopRequest
from neurochorus.pretrain.trouble import Step, Trouble, spoiled_if_not_finite
from neurochorus.pretrain.validation import Numbered, Validation
from neurochorus.pretrain.watch import Watch
from neurochorus.pretrain.watching.drawn import DrawnSamples
from neurochorus.pretrain.watching.sources import SourceLosses


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
    fingerprint: Fingerprint
    stop: StopRequest
    watch: Watch
    folder: Path
    """Where this stage's checkpoints go."""
    validation_windows: Callable[[], Numbered] | None
    """What is scored every `evaluation.every` steps; None: nothing."""
    trouble_file: Path
    """Where steps that went wrong are noted."""
    sources: SourceLosses
    """Gathers the loss of each subject or session."""
    drawn: DrawnSamples | None = None
    """Tells of which subject or session the samples so far were; None: nothing is said of it."""
    resume_from: Path | None = None
    early: EarlyStopping | None = None
    """Ends the stage by its scores, and keeps the best weights; None: all steps are done, and the last ones kept."""


def train_stage(stage: Stage, run: StageRun) -> dict[str, Tensor]:
    """Train the stage to its end and return the trained weights, or the best (on the CPU, on every rank).

    Raises StoppedEarly after saving when asked to stop, FloatingPointError after too many skipped steps.
    """
    windows, seed = run.validation_windows, run.config.run.seed
    validation = None if windows is None else Validation(stage, windows, seed, run.ranks)
    engine = Engine(stage, run.config, run.section, run.ranks)
    try:
        with lost_workers_named(), HangWatch(run.ranks, run.config.train.hang_minutes, stage.name) as hang:
            return _train(stage, engine, run, hang, validation)
    finally:
        engine.close()


def _train(
    stage: Stage, engine: Engine, run: StageRun, hang: HangWatch, validation: Validation | None
) -> dict[str, Tensor]:
    config, ranks = run.config, run.ranks
    kept = config.checkpoint
    checkpoints = Checkpoints(run.folder, Retention(kept.keep, kept.keep_every, kept.best), ranks, run.watch.say)
    start, seen, trouble = _resume(checkpoints, engine, run, stage.name)
    batches = run.batches_from(seen)
    order = GradientOrder(stage, ranks)
    ended = run.early is not None and run.early.spent  # before, when another stage is to be resumed
    run.watch.begin(stage.name, start, start if ended else run.section.steps, ranks.device)
    stage.train()
    if run.early is not None and validation is not None and not run.early.begun:
        hang.at(f"{stage.name}: evaluating")
        run.early.note(start, validation.scores(engine), engine.state_dict)
    for step in range(start, start if ended else run.section.steps):
        hang.at(f"{stage.name} step {step + 1}: reading data")
        waiting = time.perf_counter()
        micro_batches = [next(batches).to(ranks.device, non_blocking=True) for _ in range(engine.accumulation)]
        waited = time.perf_counter() - waiting
        run.watch.work(stage, micro_batches)
        hang.at(f"{stage.name} step {step + 1}: training")
        rate = learning_rate(step, run.section)
        engine.set_learning_rate(rate, step / run.section.steps)
        chance = f"{config.run.seed}/{stage.name}/{step}"
        sums, stop_wanted = _step(stage, engine, micro_batches, ranks, run.stop.wanted(), chance, trouble, run.sources)
        order.check(step)
        seen += config.train.global_batch
        loss, own_loss = float(sums["loss"]), float(sums.pop("own_loss"))
        if checkpoints.written():
            hang.at(f"{stage.name} step {step + 1}: completing a checkpoint")
            with run.watch.timed("checkpoint"):
                checkpoints.finish()
        try:
            trouble.judge(Step(step + 1, loss, own_loss, engine.step_applied, micro_batches))
        except FloatingPointError:
            checkpoints.finish()
            raise
        last, scores = step + 1 == run.section.steps, {}
        if validation is not None and ((step + 1) % (config.evaluation.every or 1) == 0 or last):
            hang.at(f"{stage.name} step {step + 1}: evaluating")
            scores = _evaluate(engine, validation, run, step + 1, last)
            last = last or (run.early is not None and run.early.spent)
        norm = engine.gradient_norm
        run.watch.step(stage.name, step + 1, seen, sums, rate, norm, waited, scores, run.sources, run.drawn)
        if (step + 1) % kept.every == 0 or last or stop_wanted:
            hang.at(f"{stage.name} step {step + 1}: saving a checkpoint")
            with run.watch.timed("checkpoint"):
                identity = (ranks.world, config.zero.stage, run.fingerprint)
                early = None if run.early is None else run.early.state
                position = Position(step + 1, seen, *identity, trouble.state, scores.get("validation_loss"), early)
                checkpoints.save(engine, position, behind=kept.write_behind and not (last or stop_wanted))
        if last:
            break
        if stop_wanted:
            raise StoppedEarly(
                f"{stage.name} stopped at step {step + 1}: {run.stop.reason or 'another rank was asked'}", ranks.first
            )
    run.watch.end(stage.name)
    weights = engine.state_dict() if run.early is None else run.early.kept_weights()
    if run.early is not None:
        run.watch.say(run.early.summary(stage.name))
    return {name.removeprefix("trained."): value for name, value in weights.items()}


def _evaluate(engine: Engine, validation: Validation, run: StageRun, step: int, at_the_end: bool) -> dict[str, float]:
    """Scores after a step for the run's record, with what early stopping makes of them."""
    with run.watch.timed("evaluation"):
        scores = validation.scores(engine)
        if run.early is None:
            return scores.values
        run.early.note(step, scores, engine.state_dict, at_the_end)
        return scores.values | run.early.line()


def _resume(checkpoints: Checkpoints, engine: Engine, run: StageRun, stage: str) -> tuple[int, int, Trouble]:
    """Steps done and samples seen, from the checkpoint that is continued, and the watch over steps that go wrong."""
    config, say = run.config, run.watch.say
    position = checkpoints.resume(engine, run.fingerprint, config.zero.stage, run.resume_from)
    if position is not None:
        say(f"{stage}: resumed at step {position.step} ({position.samples_seen} samples seen)")
        if run.early is not None and position.early is not None:
            run.early.resume(position.early, None if run.resume_from is None else run.resume_from.parent)
    state, limit = position.trouble if position else None, config.train.max_skipped_steps
    trouble = Trouble(stage, config.spikes, limit, run.ranks, run.trouble_file, say, state)
    return (position.step, position.samples_seen, trouble) if position else (0, 0, trouble)


def _step(
    stage: Stage,
    engine: Engine,
    micro_batches: list[Batch],
    ranks: Ranks,
    stop_wanted: bool,
    chance: str,
    trouble: Trouble | None = None,
    sources: SourceLosses | None = None,
) -> tuple[dict[str, Tensor], bool]:
    """One optimizer step: the parts of the loss per valid bin of the global batch, and whether any rank would stop.

    Among the parts is `own_loss`, the sum over this rank's bins alone. All that is random in it depends on `chance` and
    the number of the micro-batch in the global batch. A loss that is not finite, or that `trouble` refuses, skips it.
    """
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
    for number, batch in enumerate(micro_batches):
        seed_micro_batch(chance, number * ranks.world + ranks.rank)  # its place in the loader's global batch
        loss, _, parts = engine(*stage.prepare(batch))
        for name, part in {"loss": loss.detach(), **parts}.items():
            totals[name] = totals.get(name, torch.zeros_like(part)) + part
        if sources is not None:
            sources.add(batch, loss, stage.valid_bins(batch))
        if trouble is not None and trouble.refuses_spikes and number + 1 == engine.accumulation:
            whole = ranks.sum(totals["loss"].clone()) / valid_total
            loss = loss * (math.nan if trouble.refuse(float(whole)) else 1.0)
        # DeepSpeed averages over ranks and over the accumulation: undo both, divide by the global count
        scale = (ranks.world * engine.accumulation / valid_total).float()
        engine.backward_and_step(spoiled_if_not_finite(loss) * scale)
    summed = ranks.sum(torch.stack([value.float() for value in totals.values()]))
    result = {name: value / valid_total for name, value in zip(totals, summed, strict=True)}
    return {**result, "bins": bins_total, "own_loss": totals["loss"]}, bool(stops > 0)


def seed_micro_batch(chance: str, number: int) -> None:
    """Set PyTorch's generators for micro-batch `number` of the global batch of one step."""
    torch.manual_seed(seed_number(f"{chance}/{number}"))
