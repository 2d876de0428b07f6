"""Evaluation while training goes on: the loss on windows of the valid split. Training is left as it was, to the bit.

A copy of the stage outside of DeepSpeed is given the weights that an export would have, and scored in evaluation mode:
nothing is dropped, and the noise of heads is the same each time. Which windows are scored does not depend on the ranks.
"""

import copy
from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from neurochorus.data_shards.batch import Batch
from neurochorus.data_shards.loader import training_batches
from neurochorus.data_shards.plan import SamplePlan
from neurochorus.data_shards.registry import UnitRegistry
from neurochorus.data_shards.seeds import seed_number
from neurochorus.pretrain.config import RunConfig
from neurochorus.pretrain.distributed import Ranks
from neurochorus.pretrain.engine import Engine
from neurochorus.pretrain.stages import Stage
from neurochorus.pretrain.training_data import TrainingData

Numbered = Iterable[tuple[int, Batch]]
"""Micro-batches with their numbers among those of all ranks."""


class Validation:
    """Scores a stage in training; made before the engine, which at ZeRO-3 takes the stage's weights apart."""

    def __init__(self, stage: Stage, windows: Callable[[], Numbered], seed: int, ranks: Ranks):
        """`windows` gives this rank's share of what is scored, the same at every call."""
        self._stage = copy.deepcopy(stage).cpu().eval().requires_grad_(False)
        self._windows, self._seed, self._ranks = windows, seed, ranks

    def scores(self, engine: Engine) -> dict[str, float]:
        """`validation_loss` and its parts, a valid bin, over the windows of all ranks. All ranks must call it."""
        self._stage.load_state_dict(engine.state_dict())
        devices = [self._ranks.device] if self._ranks.device.type == "cuda" else []
        with torch.random.fork_rng(devices), torch.no_grad():
            totals = self._sums()
        self._stage.cpu()
        summed = self._ranks.sum(torch.stack(list(totals.values())))
        of_name = dict(zip(totals, summed.tolist(), strict=True))
        bins = of_name.pop("bins")
        return {f"validation_{name}": total / bins for name, total in of_name.items()}

    def _sums(self) -> dict[str, Tensor]:
        """Loss, its parts and the valid bins of this rank's windows."""
        self._stage.to(self._ranks.device)
        totals: dict[str, Tensor] = {}
        for number, batch in self._windows():
            torch.manual_seed(seed_number(f"{self._seed}/{self._stage.name}/validation/{number}"))
            loss, bins, parts = self._stage(*self._stage.prepare(batch.to(self._ranks.device)))
            named = {"bins": bins, "loss": loss, **{f"loss_{name}": part for name, part in parts.items()}}
            for name, value in named.items():
                totals[name] = totals.get(name, torch.zeros((), dtype=torch.float64)) + value.double().cpu()
        return totals


def validation_windows(
    config: RunConfig, data: TrainingData, registry: UnitRegistry, ranks: Ranks
) -> Callable[[], Numbered]:
    """What `evaluation.batches` micro-batches of the valid split this rank has to score.

    Sessions have their share of them as in training. Raises ValueError when no session has samples in the valid split,
    or there are fewer micro-batches than ranks.
    """
    batches = config.evaluation.batches
    sessions = [name for name in data.session_ids if len(data.corpus.rows_of(name, "valid"))]
    if not sessions:
        raise ValueError(
            "evaluation.every: no session has samples in the valid split: set it to null, or write the data with one"
        )
    if batches < ranks.world:
        raise ValueError(f"evaluation.batches: {batches} for {ranks.world} ranks: give each of them one at least")
    plan = SamplePlan.from_corpus(
        data.corpus,
        "valid",
        sessions,
        seed=seed_number(f"{config.run.seed}/validation"),
        group=config.train.micro_batch,
        window_bins=config.data.window_bins,
        alpha=config.data.alpha,
        mixture=config.data.mixture,
    )

    def windows() -> Numbered:
        own = training_batches(
            data.corpus,
            plan,
            registry,
            micro_batch=config.train.micro_batch,
            rank=ranks.rank,
            world=ranks.world,
            covariates=config.model.dynamics.covariate_columns,
        )
        return zip(range(ranks.rank, batches, ranks.world), own)

    return windows
