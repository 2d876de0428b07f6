"""Replay: a share of every global batch comes from sessions that the model knows, so that they are not forgotten."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from neurochorus.data_shards.corpus import Corpus
from neurochorus.data_shards.dataset import ShardDataset
from neurochorus.data_shards.interleaved_plan import InterleavedPlan
from neurochorus.data_shards.manifest import select_sessions
from neurochorus.data_shards.plan import SamplePlan
from neurochorus.data_shards.registry import UnitRegistry
from neurochorus.data_shards.settings import settings
from neurochorus.pretrain.config import RunConfig
from neurochorus.pretrain.training_data import TrainingData, sample_plan


@settings
class ReplaySection:
    path: str | list[str]
    """Data set directories that hold sessions of the base model; may be that of the new ones."""
    sessions: list[str] | None = None
    """Session ids or patterns; null: all that the model knows."""
    exclude: list[str] = field(default_factory=list)
    """Session ids or patterns to leave out."""
    share: float = 0.25
    """Share of each global batch's groups of samples; within it sessions are mixed as `data.alpha` says."""
    train_rows: bool = False
    """Whether rows of replayed sessions are trained too; else they stay as they are."""

    @property
    def paths(self) -> list[str]:
        return [self.path] if isinstance(self.path, str) else list(self.path)

    def problems(self) -> list[str]:
        found = [] if 0 < self.share < 1 else [f"share: expected a number between 0 and 1, found {self.share}"]
        return found + ([] if self.paths else ["path: at least one data set directory is needed"])


@dataclass(frozen=True)
class ReplayedData(TrainingData):
    """New sessions, which are all that `session_ids` and `entries` name, and old ones among their samples."""

    new: TrainingData
    replayed: list[str]
    share: float

    @classmethod
    def beside(
        cls, new: TrainingData, section: ReplaySection, registry: UnitRegistry, bin_s: float | None
    ) -> "ReplayedData":
        """Add known sessions to new ones.

        Raises ValueError where none is known, or the data's units, bins or modality are not those that the model knows.
        """
        old = Corpus(section.paths, bin_s)
        in_both = registry.known_among(old.sessions)
        if not in_both:
            found = ", ".join(entry.session_id for entry in old.sessions[:5])
            raise ValueError(
                f"replay.path {', '.join(section.paths)}: the model knows none of its sessions ({found}, ...): give "
                "the data set that it was trained on, or set replay to null"
            )
        candidates = old.sessions if section.sessions else in_both
        chosen = select_sessions(candidates, section.sessions, section.exclude)
        for session_id in chosen:
            registry.rows(old.session(session_id))
        corpus = new.corpus.with_datasets(_others(new.corpus.datasets, old.datasets))
        return cls(corpus, new.session_ids, new, chosen, section.share)

    def plan(self, config: RunConfig, stage: str) -> SamplePlan:
        """The new sessions' own order, with groups of old ones in between."""
        old = sample_plan(config, self.corpus, "train", self.replayed, f"{stage}/replay")
        return InterleavedPlan(self.new.plan(config, stage), old, self.share)


def _others(own: Iterable[ShardDataset], more: Iterable[ShardDataset]) -> list[ShardDataset]:
    """Data sets among `more` that lie elsewhere than all of `own`."""
    places = {_place(dataset) for dataset in own}
    return [dataset for dataset in more if _place(dataset) not in places]


def _place(dataset: ShardDataset) -> str:
    path = dataset.path
    return str(path.resolve()) if isinstance(path, Path) else str(path)
