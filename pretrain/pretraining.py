"""Pretraining from data sets to a model directory: autoencoder, whitening, dynamics, export."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from neurochorus.data_shards.batch import Batch
from neurochorus.data_shards.loader import training_batches
from neurochorus.data_shards.plan import Mixture, SamplePlan
from neurochorus.data_shards.registry import UnitRegistry
from neurochorus.data_shards.seeds import seed_number
from neurochorus.data_shards.settings import settings_to_dict
from neurochorus.models import NeuralModel, UnitStatistics, load, read_training, save
from neurochorus.models.observations import observation_for
from neurochorus.pretrain.adaptation.reference_pass import fit_reference
from neurochorus.pretrain.config import EvaluationSection, RunConfig, StageSection
from neurochorus.pretrain.covariates import CovariateStatistics, sessions_without, with_widths
from neurochorus.pretrain.distributed import Ranks
from neurochorus.pretrain.early_stopping import EarlyStopping
from neurochorus.pretrain.engine import deepspeed_settings
from neurochorus.pretrain.fingerprint import BASIS, Fingerprint, differences, run_fingerprint, weights_hash
from neurochorus.pretrain.initial_weights import InitialWeights, initial_weights
from neurochorus.pretrain.loop import StageRun, train_stage
from neurochorus.pretrain.position import complete_checkpoints, named_checkpoints, went_from
from neurochorus.pretrain.run_directory import RunDirectory
from neurochorus.pretrain.stages import Stage, autoencoder_stage, dynamics_stage, fit_whitening, joint_stage
from neurochorus.pretrain.stop_section import StopSection
from neurochorus.pretrain.stopping import StopRequest
from neurochorus.pretrain.taking_over import adopt_autoencoder, take_autoencoder, take_dynamics
from neurochorus.pretrain.training_data import TrainingData, refuse_long_forecast, share_of_train_split
from neurochorus.pretrain.validation import Numbered, count_windows, validation_windows
from neurochorus.pretrain.watch import Watch
from neurochorus.pretrain.watching.drawn import DrawnSamples
from neurochorus.pretrain.watching.sources import SourceLosses
from neurochorus.pretrain.width_transfer import transfer_width

STAGES = ("autoencoder", "dynamics", "joint")


@dataclass(frozen=True)
class Trainer:
    """One run: its settings, data, ranks and directory. Trains a stage of any model on its data."""

    config: RunConfig
    data: TrainingData
    ranks: Ranks
    directory: RunDirectory
    stop: StopRequest
    watch: Watch
    early: StopSection | None = None
    """When a stage ends by its score; None: never."""
    further: Mapping[str, Any] = field(default_factory=dict)
    """Settings besides those of `config` that a continued run must have in common with its checkpoints."""
    endings: dict[str, EarlyStopping] = field(default_factory=dict)
    """Stage -> how it ended, where `early` is set."""
    ended: dict[str, Any] = field(default_factory=dict)
    """The same as plain values, of stages that an earlier part of the run has finished."""

    def train(
        self, stage: Stage, section: StageSection, registry: UnitRegistry, basis: str | None = None
    ) -> dict[str, Tensor]:
        """The trained weights of the stage, on every rank.

        Only a checkpoint that was made on the same `basis`, a hash of weights, is continued.
        """
        plan = self.data.plan(self.config, stage.name)
        fingerprint = run_fingerprint(self.config, self.data, stage.name, self.further)
        folder = self.directory.checkpoints(stage.name)
        if self.early is not None:
            windows = count_windows(self.config, self.data, "valid")
            self.endings[stage.name] = EarlyStopping(self.early, folder, windows, self.ranks, self.watch.say)
        if basis is not None:
            fingerprint[BASIS] = basis
        run = StageRun(
            config=self.config,
            section=section,
            ranks=self.ranks,
            batches_from=lambda seen: self._batches(plan, registry, seen),
            fingerprint=fingerprint,
            stop=self.stop,
            watch=self.watch,
            folder=folder,
            validation_windows=self._validation_windows(registry),
            trouble_file=self.directory.path / "trouble.jsonl",
            sources=SourceLosses(self.config.watch.sources, registry, self.ranks),
            drawn=self._drawn(plan),
            resume_from=resume_path(self.config, stage.name),
            early=self.endings.get(stage.name),
        )
        return train_stage(stage, run)

    def say_who_lacks_covariates(self) -> None:
        for name, sessions in sessions_without(self.data.entries, self.config.model.dynamics.covariates).items():
            listed = ", ".join(sessions[:5]) + (f", ... ({len(sessions)} in all)" if len(sessions) > 5 else "")
            self.watch.say(f"covariate {name!r}: missing to the model in {listed}")

    def say_what_is_read_once(self) -> None:
        for session_id, path in self.data.corpus.repeated.items():
            self.watch.say(f"session {session_id}: lies in {path} too, and is read once")

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
            "bin_s": self.data.corpus.bin_s,
            "fraction": config.data.fraction,
            "forecast": settings_to_dict(config.forecast),
            "early_stop": self.ended | {name: one.facts() for name, one in self.endings.items() if one.begun},
            **more,
        }

    def _validation_windows(self, registry: UnitRegistry) -> Callable[[], Numbered] | None:
        if self.config.evaluation.every is None:
            return None
        return validation_windows(self.config, self.data, registry, self.ranks, once=self.early is not None)

    def _drawn(self, plan: SamplePlan) -> DrawnSamples:
        watched, mixed = self.config.watch.sources, self.config.data.mixture
        kinds: list[Mixture] = [] if watched == "none" else [watched]
        return DrawnSamples(plan, self.data.corpus, kinds if mixed == "session" else [*kinds, mixed])

    def _batches(self, plan: SamplePlan, registry: UnitRegistry, samples_seen: int) -> Iterator[Batch]:
        return training_batches(
            self.data.corpus,
            plan,
            registry,
            micro_batch=self.config.train.micro_batch,
            rank=self.ranks.rank,
            world=self.ranks.world,
            samples_seen=samples_seen,
            augment=self.config.data.augment,
            covariates=self.config.model.dynamics.covariate_columns,
            earlier_memory=self.config.model.autoencoder.earlier_memory_bins,
            workers=self.config.data.workers,
            prefetch=self.config.data.prefetch,
        )


def covariate_statistics(config: RunConfig, data: TrainingData, ranks: Ranks) -> CovariateStatistics | None:
    """Of the covariates that the dynamics read; None where they read none."""
    widths = config.model.dynamics.covariate_columns
    if not widths:
        return None
    registry = UnitRegistry.from_sessions(data.entries)
    return CovariateStatistics.of(share_of_train_split(config, data, registry, ranks), widths, ranks)


def resume_path(config: RunConfig, stage: str | None = None) -> Path | None:
    """The checkpoint that run.resume names, if it is of `stage` (None: any).

    Raises ValueError when it names none, unless this run went on from it before.
    """
    if config.run.resume in ("auto", "never"):
        return None
    path = Path(config.run.resume)
    gone_on = went_from(RunDirectory(Path(config.run.dir)).checkpoints(path.parent.name), path)
    if path.parent.name not in STAGES or not (gone_on or path in complete_checkpoints(path.parent)):
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
    if config.stop is not None:
        scored = EvaluationSection(every=config.stop.every, batches=config.stop.batches)
        config = replace(config, evaluation=scored)
    directory = RunDirectory(Path(config.run.dir))
    # what may be refused is refused before the directory is written
    settings = config.model.autoencoder
    observation_for(settings.observation, data.entries[0].modality, settings.rate)
    adopted = None if config.autoencoder.init is None else adopt_autoencoder(config, data.entries)
    start = None if config.run.init is None else initial_weights(Path(config.run.init))
    if start is not None:
        start.refuse_another(config.model, data.entries)
        if adopted is not None:
            start.give(adopted, ("dynamics",))
    fingerprints = _stages_to_come(config, data, directory)
    if adopted is not None and "dynamics" in fingerprints:
        fingerprints["dynamics"][BASIS] = weights_hash(adopted.autoencoder, adopted.whitening)
    statistics = covariate_statistics(config, data, ranks)
    directory.prepare(config, ranks, deepspeed_settings(config, ranks.world), fingerprints)
    ranks.barrier()
    watch = Watch(config, directory.path, ranks.first)
    stop = StopRequest(directory.path, config.train.max_hours, watch_file=ranks.first)
    trainer = Trainer(config, data, ranks, directory, stop, watch, config.stop, _further(config))
    code = 1
    try:
        if adopted is not None:
            watch.say(f"autoencoder: taken from {config.autoencoder.init}")
        trainer.say_who_lacks_covariates()
        trainer.say_what_is_read_once()
        with stop.signals():
            model = _first_stage(trainer, start) if adopted is None else adopted
            if statistics is not None:
                model.dynamics.set_covariate_statistics(statistics.mean_K, statistics.sd_K)
            _second_stage(trainer, model)
            _third_stage(trainer, model)
        if ranks.first:
            save(model.cpu(), directory.export, trainer.facts(model))
        ranks.barrier()
        code = 0
    finally:
        watch.close(code)
    return directory.export


def _stages_to_come(config: RunConfig, data: TrainingData, directory: RunDirectory) -> dict[str, Fingerprint]:
    """Fingerprints of the stages that are still to be trained. Raises ValueError where run.dir or run.resume misfit."""
    fingerprints = {stage: run_fingerprint(config, data, stage, _further(config)) for stage in stages_of(config)}
    finished = config.autoencoder.init
    if finished is None:
        finished = _finished_autoencoder(config, directory, fingerprints["autoencoder"])
    if finished is not None:
        fingerprints.pop("autoencoder", None)
    asked = resume_path(config)
    gone_on = asked is not None and went_from(directory.checkpoints(asked.parent.name), asked)
    if asked is not None and asked.parent.name not in fingerprints and not gone_on:
        raise ValueError(
            f"run.resume {asked}: {asked.parent.name} is not trained in this run, or finished ({finished}): "
            f"give another run.dir, or a checkpoint of {' or '.join(fingerprints)}"
        )
    own = directory.checkpoints("dynamics")
    if asked is not None and asked.parent.name == "joint" and "dynamics" in fingerprints and not named_checkpoints(own):
        of_run = asked.parents[2]
        raise ValueError(
            f"run.resume {asked}: {own} has no checkpoints, so that this run would train its dynamics anew, and the "
            f"joint stage stands on those of {of_run}: go on in {of_run}, or start another joint stage with "
            "autoencoder.init and dynamics.init"
        )
    return fingerprints


def _further(config: RunConfig) -> dict[str, Any]:
    """What a continued run must have in common besides what every run has."""
    return {} if config.stop is None else {"stop": settings_to_dict(config.stop)}


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
    weights = trainer.train(stage, config.dynamics, model.registry, weights_hash(model.autoencoder, model.whitening))
    model.dynamics.load_state_dict(weights)


def _third_stage(trainer: Trainer, model: NeuralModel) -> None:
    """Go on with the trained dynamics under the joint score, if the run asks for it."""
    config = trainer.config
    if config.joint is not None:
        stage = joint_stage(model, config.train.precision)
        weights = trainer.train(stage, config.joint, model.registry, weights_hash(model))
        model.dynamics.load_state_dict({name.removeprefix("dynamics."): w for name, w in weights.items()})


def _first_stage(trainer: Trainer, start: InitialWeights | None) -> NeuralModel:
    """The model with a trained autoencoder and whitening: from this run, or an earlier part of it."""
    config, ranks, folder = trainer.config, trainer.ranks, trainer.directory.autoencoder
    torch.manual_seed(seed_number(f"{config.run.seed}/weights"))
    entries = trainer.data.entries
    model = NeuralModel(config.model, UnitRegistry.from_sessions(entries), UnitStatistics.of(entries))
    transfer_width(model, config.train.base_width)
    expected = run_fingerprint(config, trainer.data, "autoencoder", trainer.further)
    if start is not None:
        start.give(model)
    finished = _finished_autoencoder(config, trainer.directory, expected)
    if finished is not None:
        trainer.watch.say(f"autoencoder: taken from {finished}, finished earlier")
        take_autoencoder(model, load(finished))
        trainer.ended.update(read_training(finished).get("early_stop") or {})
    else:
        stage = autoencoder_stage(model, config.train.precision)
        model.autoencoder.load_state_dict(trainer.train(stage, config.autoencoder, model.registry))
        seen = fit_whitening(model, share_of_train_split(config, trainer.data, model.registry, ranks), ranks)
        again = share_of_train_split(config, trainer.data, model.registry, ranks)
        mean_L, covariance_LL = seen.mean_and_covariance()
        model.reference = fit_reference(model, again, ranks, covariance_LL, mean_L)
        model.cpu()
    if ranks.first and finished != folder:
        save(model, folder, trainer.facts(model, fingerprint=expected, note="dynamics not trained yet"))
    ranks.barrier()
    return model


def _finished_autoencoder(config: RunConfig, directory: RunDirectory, expected: Fingerprint) -> Path | None:
    """The autoencoder that this run has finished, or the run whose checkpoint run.resume names; None where none has.

    Raises ValueError when it is of a run with other settings.
    """
    asked = resume_path(config)
    elsewhere = [] if asked is None or asked.parent.name == "autoencoder" else [asked.parents[2] / "autoencoder"]
    folder = next((folder for folder in (directory.autoencoder, *elsewhere) if folder.exists()), None)
    differing = [] if folder is None else differences(read_training(folder).get("fingerprint") or {}, expected)
    if differing:
        raise ValueError(
            f"{folder}: is the autoencoder of another run:\n  - "
            + "\n  - ".join(differing)
            + "\nGive another run.dir, or take it over on purpose with autoencoder.init."
        )
    return folder
