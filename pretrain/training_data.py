"""The recordings of a run: which sessions, in which order, and whether they are long enough."""

from collections.abc import Iterator
from dataclasses import dataclass

from neurochorus.data_shards.batch import Batch
from neurochorus.data_shards.corpus import Corpus
from neurochorus.data_shards.loader import evaluation_batches
from neurochorus.data_shards.manifest import SessionEntry, select_sessions
from neurochorus.data_shards.plan import SamplePlan
from neurochorus.data_shards.registry import UnitRegistry
from neurochorus.data_shards.seeds import seed_number
from neurochorus.pretrain.config import RunConfig
from neurochorus.pretrain.distributed import Ranks


@dataclass(frozen=True)
class TrainingData:
    """The chosen sessions of a run's data sets."""

    corpus: Corpus
    session_ids: list[str]

    @classmethod
    def open(cls, config: RunConfig) -> "TrainingData":
        corpus = Corpus(config.data.paths)
        return cls(corpus, select_sessions(corpus.sessions, config.data.sessions, config.data.exclude))

    @property
    def entries(self) -> list[SessionEntry]:
        return [self.corpus.session(name) for name in self.session_ids]

    def plan(self, config: RunConfig, stage: str) -> SamplePlan:
        return SamplePlan.from_corpus(
            self.corpus,
            "train",
            self.session_ids,
            seed=seed_number(f"{config.run.seed}/{stage}"),
            group=config.train.micro_batch,
            alpha=config.data.alpha,
            overrides=config.data.weights,
        )


def share_of_train_split(
    config: RunConfig, data: TrainingData, registry: UnitRegistry, ranks: Ranks
) -> Iterator[Batch]:
    """Every train sample once over all ranks; each rank gets every world-th batch."""
    batches = evaluation_batches(
        data.corpus,
        registry,
        "train",
        data.session_ids,
        window_bins=config.data.window_bins,
        covariates=config.model.dynamics.covariate_columns,
    )
    return (batch for number, batch in enumerate(batches) if number % ranks.world == ranks.rank)


def refuse_long_forecast(config: RunConfig, data: TrainingData) -> None:
    """Raise ValueError when no sample is long enough for the forecast that evaluation would make after the training."""
    bins = config.forecast.context_bins + config.forecast.horizon_bins
    longest = max(int(dataset.index.bins.max()) for dataset in data.corpus.datasets)
    if bins > longest:
        raise ValueError(
            f"forecast: {bins} bins of context and horizon ({config.forecast.context_bins} + "
            f"{config.forecast.horizon_bins}); the longest sample of {', '.join(config.data.paths)} has {longest}: "
            "make forecast.context_bins or forecast.horizon_bins smaller"
        )
