"""Pretraining from data sets to a model directory: autoencoder, whitening, dynamics, export."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from neurochorus.data_shards.batch import Batch
from neurochorus.data_shards.dataset import Corpus
from neurochorus.data_shards.loader import evaluation_batches, training_batches
from neurochorus.data_shards.manifest import SessionEntry, select_sessions
from neurochorus.data_shards.plan import SamplePlan
from neurochorus.data_shards.registry import UnitRegistry
from neurochorus.data_shards.seeds import seed_number
from neurochorus.data_shards.settings import settings_to_dict
from neurochorus.models import NeuralModel, UnitStatistics, load, read_training, save
from neurochorus.models.observations import observation_for
from neurochorus.pretrain.checkpoint import complete_checkpoints
from neurochorus.pretrain.config import RunConfig, StageSection
from neurochorus.pretrain.covariates import CovariateStatistics, sessions_without, with_widths
from neurochorus.pretrain.distributed import Ranks
from neurochorus.pretrain.engine import deepspeed_settings
from neurochorus.pretrain.loop import StageRun, train_stage
from neurochorus.pretrain.run_directory import RunDirectory
from neurochorus.pretrain.stages import Stage, autoencoder_stage, dynamics_stage, fit_whitening, joint_stage
from neurochorus.pretrain.stopping import StopRequest
from neurochorus.pretrain.taking_over import adopt_autoencoder, take_autoencoder, take_dynamics
from neurochorus.pretrain.watch import Watch

STAGES = ("autoencoder", "dynamics", "joint")
BASIS = "weights it stands on"


@dataclass(frozen=True)
class TrainingData:
    """The chosen sessions of a run's data sets."""

    corpus: Corpus
    session_ids: list[str]

    @classmethod
    def open(cls, config: RunConfig) -> "TrainingData":
        corpus = Corpus([Path(path) for path in config.data.paths])
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


@dataclass(frozen=True)
class Trainer:
    """One run: its settings, data, ranks and directory. Trains a stage of any model on its data."""

    config: RunConfig
    data: TrainingData
    ranks: Ranks
    directory: RunDirectory
    stop: StopRequest
    watch: Watch

    def train(
        self, stage: Stage, section: StageSection, registry: UnitRegistry, stands_on: Sequence[nn.Module] = ()
    ) -> dict[str, Tensor]:
        """The trained weights of the stage, on every rank.

        Only a checkpoint that was made with the same weights of `stands_on` is continued.
        """
        plan = self.data.plan(self.config, stage.name)
        fingerprint = run_fingerprint(self.config, self.data, stage.name)
        if stands_on:
            fingerprint[BASIS] = weights_hash(*stands_on)
        run = StageRun(
            config=self.config,
            section=section,
            ranks=self.ranks,
            batches_from=lambda seen: self._batches(plan, registry, seen),
            fingerprint=fingerprint,
            stop=self.stop,
            watch=self.watch,
            folder=self.directory.checkpoints(stage.name),
            resume_from=resume_path(self.config, stage.name),
        )
        return train_stage(stage, run)

    def say_who_lacks_covariates(self) -> None:
        for name, sessions in sessions_without(self.data.entries, self.config.model.dynamics.covariates).items():
            listed = ", ".join(sessions[:5]) + (f", ... ({len(sessions)} in all)" if len(sessions) > 5 else "")
            self.watch.say(f"covariate {name!r}: missing to the model in {listed}")

    def facts(self, model: NeuralModel, **more: Any) -> dict[str, Any]:
        """What an export says of its training."""
        config = self.config
        return {
            "data": [dataset.manifest.name for dataset in self.data.corpus.datasets],
            "data_hash": self.data.corpus.hash(),
            "sessions": self.data.session_ids,
            "seed": config.run.seed,
            "head": model.config.head,
            "autoencoder": settings_to_dict(config.autoencoder),
            "dynamics": settings_to_dict(config.dynamics),
            "joint": None if config.joint is None else settings_to_dict(config.joint),
            "train": settings_to_dict(config.train),
            "zero_stage": config.zero.stage,
            "ranks": self.ranks.world,
            "window_bins": config.data.window_bins,
            "forecast": settings_to_dict(config.forecast),
            **more,
        }

    def _batches(self, plan: SamplePlan, registry: UnitRegistry, samples_seen: int) -> Iterator[Batch]:
        return training_batches(
            self.data.corpus,
            plan,
            registry,
            micro_batch=self.config.train.micro_batch,
            rank=self.ranks.rank,
            world=self.ranks.world,
            samples_seen=samples_seen,
            window_bins=self.config.data.window_bins,
            covariates=self.config.model.dynamics.covariate_columns,
            workers=self.config.data.workers,
            prefetch=self.config.data.prefetch,
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


def covariate_statistics(config: RunConfig, data: TrainingData, ranks: Ranks) -> CovariateStatistics | None:
    """Of the covariates that the dynamics read; None where they read none."""
    widths = config.model.dynamics.covariate_columns
    if not widths:
        return None
    registry = UnitRegistry.from_sessions(data.entries)
    return CovariateStatistics.of(share_of_train_split(config, data, registry, ranks), widths, ranks)


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


def run_fingerprint(config: RunConfig, data: TrainingData, stage: str) -> dict[str, str]:
    """What a run must have in common with a checkpoint of a stage to continue it."""
    training = {"stage": settings_to_dict(getattr(config, stage)), "seed": config.run.seed, "zero": config.zero.stage}
    training |= {"global_batch": config.train.global_batch, "precision": config.train.precision}
    training |= {"clipping": config.train.gradient_clipping, "window": config.data.window_bins}
    training |= {"head factor": config.train.head_learning_rate_factor}
    return {
        "data": data.corpus.hash(),
        "order of samples": data.plan(config, stage).fingerprint(),
        "model settings": _short_hash(settings_to_dict(config.model)),
        "training settings": _short_hash(training),
    }


def weights_hash(*modules: nn.Module) -> str:
    """16 hex digits that change with any weight or buffer of the modules."""
    digest = hashlib.sha256()
    for module in modules:
        for name, value in module.state_dict().items():
            digest.update(name.encode() + value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def resume_path(config: RunConfig, stage: str | None = None) -> Path | None:
    """The checkpoint that run.resume names, if it is of `stage` (None: any). Raises ValueError when it names none."""
    if config.run.resume in ("auto", "never"):
        return None
    path = Path(config.run.resume)
    if path.parent.name not in STAGES or path not in complete_checkpoints(path.parent):
        raise ValueError(
            f"run.resume {config.run.resume!r}: expected auto, never or the path of a complete checkpoint, such as "
            f"{config.run.dir}/checkpoints/dynamics/step_{config.dynamics.steps:08d}"
        )
    return path if stage in (None, path.parent.name) else None


def pretrain(config: RunConfig, ranks: Ranks) -> Path:
    """Train both stages and export the model; returns the model directory. All ranks must call it.

    Raises StoppedEarly when asked to stop (a checkpoint is saved), ValueError for data or a run directory that do
    not fit.
    """
    data = TrainingData.open(config)
    refuse_long_forecast(config, data)
    config = replace(config, model=with_widths(config.model, data.entries))
    directory = RunDirectory(Path(config.run.dir))
    # what may be refused is refused before the directory is written
    settings = config.model.autoencoder
    observation_for(settings.observation, data.entries[0].modality, settings.rate)
    adopted = None if config.autoencoder.init is None else adopt_autoencoder(config, data.entries)
    fingerprints = _stages_to_come(config, data, directory)
    if adopted is not None and "dynamics" in fingerprints:
        fingerprints["dynamics"][BASIS] = weights_hash(adopted.autoencoder, adopted.whitening)
    statistics = covariate_statistics(config, data, ranks)
    directory.prepare(config, ranks, deepspeed_settings(config, ranks.world), fingerprints)
    ranks.barrier()
    watch = Watch(config, directory.path, ranks.first)
    stop = StopRequest(directory.path, config.train.max_hours, watch_file=ranks.first)
    trainer = Trainer(config, data, ranks, directory, stop, watch)
    code = 1
    try:
        if adopted is not None:
            watch.say(f"autoencoder: taken from {config.autoencoder.init}")
        trainer.say_who_lacks_covariates()
        with stop.signals():
            model = _first_stage(trainer) if adopted is None else adopted
            if statistics is not None:
                model.dynamics.set_covariate_statistics(statistics.mean_K, statistics.sd_K)
            _second_stage(trainer, model)
            if config.joint is not None:
                weights = trainer.train(
                    joint_stage(model, config.train.precision), config.joint, model.registry, (model,)
                )
                model.dynamics.load_state_dict({name.removeprefix("dynamics."): w for name, w in weights.items()})
        if ranks.first:
            save(model.cpu(), directory.export, trainer.facts(model))
        ranks.barrier()
        code = 0
    finally:
        watch.close(code)
    return directory.export


def _stages_to_come(config: RunConfig, data: TrainingData, directory: RunDirectory) -> dict[str, dict[str, str]]:
    """Fingerprints of the stages that are still to be trained. Raises ValueError where run.dir or run.resume misfit."""
    fingerprints = {stage: run_fingerprint(config, data, stage) for stage in stages_of(config)}
    finished = config.autoencoder.init
    if finished is None and _finished_earlier(directory.autoencoder, fingerprints["autoencoder"]):
        finished = str(directory.autoencoder)
    if finished is not None:
        fingerprints.pop("autoencoder", None)
    asked = resume_path(config)
    if asked is not None and asked.parent.name not in fingerprints:
        raise ValueError(
            f"run.resume {asked}: {asked.parent.name} is not trained in this run, or finished ({finished}): "
            f"give another run.dir, or a checkpoint of {' or '.join(fingerprints)}"
        )
    return fingerprints


def stages_of(config: RunConfig) -> list[str]:
    """The stages that a run trains, in order: those that it does not take from another model."""
    sections = {stage: getattr(config, stage) for stage in STAGES}
    return [stage for stage, section in sections.items() if section is not None and section.init is None]


def _second_stage(trainer: Trainer, model: NeuralModel) -> None:
    """Give `model` trained dynamics: from this run, or from another model with the same settings."""
    config = trainer.config
    if config.dynamics.init is not None:
        trainer.watch.say(f"dynamics: taken from {config.dynamics.init}")
        take_dynamics(model, config.dynamics.init)
        return
    stage = dynamics_stage(model, config.train.precision)
    weights = trainer.train(stage, config.dynamics, model.registry, (model.autoencoder, model.whitening))
    model.dynamics.load_state_dict(weights)


def _first_stage(trainer: Trainer) -> NeuralModel:
    """The model with a trained autoencoder and whitening: from this run, or an earlier part of it."""
    config, ranks, folder = trainer.config, trainer.ranks, trainer.directory.autoencoder
    torch.manual_seed(seed_number(f"{config.run.seed}/weights"))
    entries = trainer.data.entries
    model = NeuralModel(config.model, UnitRegistry.from_sessions(entries), UnitStatistics.of(entries))
    expected = run_fingerprint(config, trainer.data, "autoencoder")
    if _finished_earlier(folder, expected):
        trainer.watch.say(f"autoencoder: taken from {folder}, finished earlier")
        take_autoencoder(model, load(folder))
        return model
    stage = autoencoder_stage(model, config.train.precision)
    model.autoencoder.load_state_dict(trainer.train(stage, config.autoencoder, model.registry))
    fit_whitening(model, share_of_train_split(config, trainer.data, model.registry, ranks), ranks)
    model.cpu()
    if ranks.first:
        save(model, folder, trainer.facts(model, fingerprint=expected, note="dynamics not trained yet"))
    ranks.barrier()
    return model


def _finished_earlier(folder: Path, expected: dict[str, str]) -> bool:
    """Whether `folder` holds the autoencoder of this run. Raises ValueError when it is of a run with other settings."""
    if not folder.exists():
        return False
    found = read_training(folder).get("fingerprint") or {}
    differing = [name for name in expected if found.get(name) != expected[name]]
    if differing:
        raise ValueError(
            f"{folder}: is the autoencoder of a run with other {', '.join(differing)}; give another run.dir, or "
            "take it over on purpose with autoencoder.init"
        )
    return True


def _short_hash(values: Any) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]
