"""The recordings of a run: which sessions, in which order, and whether they are long enough."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from neurochorus.data_shards.batch import Batch
from neurochorus.data_shards.corpus import Corpus
from neurochorus.data_shards.evaluation import evaluation_batches
from neurochorus.data_shards.manifest import SessionEntry, select_sessions
from neurochorus.data_shards.plan import SamplePlan
from neurochorus.data_shards.recording import SPLITS
from neurochorus.data_shards.registry import UnitRegistry
from neurochorus.data_shards.seeds import seed_number
from neurochorus.data_shards.thinning import ThinnedCorpus
from neurochorus.pretrain.config import RunConfig
from neurochorus.pretrain.distributed import Ranks


@dataclass(frozen=True)
class TrainingData:
    """The chosen sessions of a run's data sets."""

    corpus: Corpus
    session_ids: list[str]

    @classmethod
    def open(cls, config: RunConfig) -> "TrainingData":
        """Raises ValueError for data that cannot be read and for patterns that match no session."""
        given = config.data
        corpus = Corpus(given.paths, given.bin_s)
        chosen = select_sessions(corpus.sessions, given.sessions, given.exclude)
        if given.fraction < 1:
            corpus = ThinnedCorpus(corpus.datasets, given.bin_s, chosen, given.fraction, given.fraction_seed)
        return cls(corpus, chosen)

    @property
    def entries(self) -> list[SessionEntry]:
        return [self.corpus.session(name) for name in self.session_ids]

    @cached_property
    def hashes(self) -> dict[str, dict[str, str]]:
        """Session id -> what tells its units, and all that the manifest says of it, from another's."""
        return {e.session_id: {"units": e.unit_hash, "recording": short_hash(e.to_json())} for e in self.entries}

    def plan(self, config: RunConfig, stage: str) -> SamplePlan:
        return sample_plan(config, self.corpus, "train", self.session_ids, stage, config.data.weights)


def short_hash(values: Any) -> str:
    """16 hex digits that change with any of the plain values."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]


def sample_plan(
    config: RunConfig,
    corpus: Corpus,
    split: str,
    session_ids: Sequence[str],
    purpose: str,
    weights: Mapping[str, float] | None = None,
    group: int | None = None,
) -> SamplePlan:
    """The order of a split's samples as the run's settings say; `purpose` makes its chance another than that of others.

    `weights`: factors on the weight of sessions, by pattern. `group`: samples of one session in a row; None: as many as
    a micro-batch has.
    """
    return SamplePlan.from_corpus(
        corpus,
        split,
        session_ids,
        seed=seed_number(f"{config.run.seed}/{purpose}"),
        group=config.train.micro_batch if group is None else group,
        window_bins=config.data.window_bins,
        alpha=config.data.alpha,
        mixture=config.data.mixture,
        overrides=weights,
    )


def share_of_train_split(
    config: RunConfig, data: TrainingData, registry: UnitRegistry, ranks: Ranks
) -> Iterator[Batch]:
    """Every bin of the train split once over all ranks; ranks get equally many batches, the last one perhaps empty."""
    return evaluation_batches(
        data.corpus,
        registry,
        "train",
        data.session_ids,
        window_bins=config.data.window_bins,
        covariates=config.model.dynamics.covariate_columns,
        earlier_memory=config.model.autoencoder.earlier_memory_bins,
        rank=ranks.rank,
        world=ranks.world,
    )


def refuse_long_forecast(config: RunConfig, data: TrainingData) -> None:
    """Raise ValueError when no sample is long enough for the forecast that evaluation would make after the training."""
    bins = config.forecast.context_bins + config.forecast.horizon_bins
    corpus = data.corpus
    longest = max(
        int(corpus.bins_of(entry.session_id, split).max(initial=0)) for entry in corpus.sessions for split in SPLITS
    )
    if bins > longest:
        raise ValueError(
            f"forecast: {bins} bins of context and horizon ({config.forecast.context_bins} + "
            f"{config.forecast.horizon_bins}); the longest sample of {', '.join(config.data.paths)} has {longest}: "
            "make forecast.context_bins or forecast.horizon_bins smaller"
        )
