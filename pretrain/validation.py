"""Evaluation while training goes on: the loss on windows of the valid split. Training is left as it was, to the bit.

A copy of the stage outside of DeepSpeed is given the weights that an export would have, and scored in evaluation mode:
nothing is dropped, and the noise of heads is the same each time. Which windows are scored does not depend on the ranks.
"""

import copy
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import count, islice

import torch
from torch import Tensor

from neurochorus.data_shards.batch import Batch
from neurochorus.data_shards.evaluation import evaluation_batches
from neurochorus.data_shards.loader import training_batches
from neurochorus.data_shards.registry import UnitRegistry
from neurochorus.data_shards.seeds import seed_number
from neurochorus.data_shards.windows import WindowTable
from neurochorus.pretrain.batch_losses import BatchLosses, standard_error
from neurochorus.pretrain.config import RunConfig
from neurochorus.pretrain.distributed import Ranks
from neurochorus.pretrain.engine import Engine
from neurochorus.pretrain.stages import Stage
from neurochorus.pretrain.training_data import TrainingData, sample_plan

Numbered = Iterable[tuple[int, Batch]]
"""Micro-batches with their numbers among those of all ranks."""


@dataclass(frozen=True)
class Scores:
    """What an evaluation found."""

    values: dict[str, float]
    """`validation_loss` and its parts, a valid bin; `validation_se`, standard error of the loss where it is known."""
    losses: BatchLosses = field(default_factory=dict)


class Validation:
    """Scores a stage in training; made before the engine, which at ZeRO-3 takes the stage's weights apart."""

    def __init__(self, stage: Stage, windows: Callable[[], Numbered], seed: int, ranks: Ranks):
        """`windows` gives this rank's share of what is scored, the same at every call."""
        self._stage = copy.deepcopy(stage).cpu().eval().requires_grad_(False)
        self._windows, self._seed, self._ranks = windows, seed, ranks

    def scores(self, engine: Engine) -> Scores:
        """Over the windows of all ranks. All ranks must call it."""
        self._stage.load_state_dict(engine.state_dict())
        devices = [self._ranks.device] if self._ranks.device.type == "cuda" else []
        with torch.random.fork_rng(devices), torch.no_grad():
            totals, own = self._sums()
        self._stage.cpu()
        summed = self._ranks.sum(torch.stack(list(totals.values())))
        of_name = dict(zip(totals, summed.tolist(), strict=True))
        bins = of_name.pop("bins")
        if not bins:
            raise ValueError(
                f"{self._stage.name}: no bin of the valid split is scored: its windows are no longer than the burn-in; "
                "set data.window_bins or model.autoencoder.burn_in_bins otherwise, or evaluation.every and stop to null"
            )
        values = {f"validation_{name}": total / bins for name, total in of_name.items()}
        losses = {number: loss for part in self._ranks.gather(own) for number, loss in part.items()}
        losses = dict(sorted(losses.items()))
        error = standard_error(losses)
        return Scores(values if error is None else values | {"validation_se": error}, losses)

    def _sums(self) -> tuple[dict[str, Tensor], BatchLosses]:
        """Loss, its parts and the valid bins of this rank's windows, and of each micro-batch that has any."""
        self._stage.to(self._ranks.device)
        totals: dict[str, Tensor] = {}
        losses: dict[int, tuple[float, float]] = {}
        for number, batch in self._windows():
            torch.manual_seed(seed_number(f"{self._seed}/{self._stage.name}/validation/{number}"))
            loss, bins, parts = self._stage(*self._stage.prepare(batch.to(self._ranks.device)))
            scored = bool(bins > 0)  # not of a masked batch, nor of windows within the burn-in
            if scored:
                losses[number] = (float(loss), float(bins))
            for name, value in {"bins": bins, "loss": loss, **{f"loss_{n}": part for n, part in parts.items()}}.items():
                zero = torch.zeros((), dtype=torch.float64)
                totals[name] = totals.get(name, zero) + (value.double().cpu() if scored else zero)
        return totals, losses


def validation_windows(
    config: RunConfig, data: TrainingData, registry: UnitRegistry, ranks: Ranks, once: bool = False
) -> Callable[[], Numbered]:
    """What `evaluation.batches` micro-batches of the valid split this rank has to score.

    Sessions have their share of them as in training. With `once`, and no more windows than those micro-batches hold,
    every window is scored once, in smaller micro-batches that still are of one session each. Raises ValueError when no
    session has samples in the valid split, or there are fewer micro-batches than ranks.
    """
    batches, micro_batch = config.evaluation.batches, config.train.micro_batch
    sessions = [name for name in data.session_ids if len(data.corpus.rows_of(name, "valid"))]
    if not sessions:
        raise ValueError(
            f"{'stop' if once else 'evaluation.every'}: no session has samples in the valid split: set it to null, or "
            "write the data with one"
        )
    smallest = math.ceil(count_windows(config, data, "valid") / batches)
    if once and smallest <= micro_batch:
        return lambda: _every_window(config, data, registry, ranks, sessions, smallest)
    if batches < ranks.world:
        name = "stop" if once else "evaluation"
        raise ValueError(f"{name}.batches: {batches} for {ranks.world} ranks: give each of them one at least")
    plan = sample_plan(config, data.corpus, "valid", sessions, "validation", group=micro_batch)

    def windows() -> Numbered:
        own = training_batches(
            data.corpus,
            plan,
            registry,
            micro_batch=micro_batch,
            rank=ranks.rank,
            world=ranks.world,
            covariates=config.model.dynamics.covariate_columns,
            earlier_memory=config.model.autoencoder.earlier_memory_bins,
        )
        return zip(range(ranks.rank, batches, ranks.world), own)

    return windows


def _every_window(
    config: RunConfig, data: TrainingData, registry: UnitRegistry, ranks: Ranks, sessions: list[str], micro_batch: int
) -> Iterator[tuple[int, Batch]]:
    """This rank's share of all windows of the valid split; one masked batch where there is none for it.

    Batches of windows that are shorter than a patch of the dynamics, of which nothing is predicted, are left out.
    """

    def batches(rank: int, world: int) -> Iterator[tuple[int, Batch]]:
        found = evaluation_batches(
            data.corpus,
            registry,
            "valid",
            sessions,
            batch_size=micro_batch,
            window_bins=config.data.window_bins,
            covariates=config.model.dynamics.covariate_columns,
            earlier_memory=config.model.autoencoder.earlier_memory_bins,
            rank=rank,
            world=world,
        )
        for number, batch in zip(count(rank, world), found):
            if batch.sample_ids and batch.signal_BTC.shape[1] >= config.model.dynamics.patch_bins:
                yield number, batch

    idle = True
    for numbered in batches(ranks.rank, ranks.world):
        idle = False
        yield numbered
    if idle:  # the ranks sum the same parts of a loss
        for number, batch in islice(batches(0, 1), 1):
            yield number, replace(batch, bin_mask_BT=torch.zeros_like(batch.bin_mask_BT))


def count_windows(config: RunConfig, data: TrainingData, split: str) -> int:
    """Windows of a split of all the sessions."""
    table = WindowTable(data.corpus, split, config.data.window_bins)
    return sum(table.count(session_id) for session_id in data.session_ids)
