"""Adding sessions that a model never saw: append their rows, fit them and as much of the rest as is wished, export.

Always fitted: read-in and read-out rows, biases and gains of the new units, the bias of each new session (stage 1, on
signals), and the vectors of new sessions and subjects (stage 2, on latents). Rows of the sessions that the model knew
get no gradient and are put back bit for bit at the end, unless replay trains them. What else moves is `adapt`'s to say:
adaptation/modes.py, which also tells why the whitening stays as it was.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from neurochorus.data_shards.settings import settings, settings_to_dict
from neurochorus.models import NeuralModel, load, read_training, save
from neurochorus.pretrain.adaptation.enough_data import data_warnings, windows_of
from neurochorus.pretrain.adaptation.facts import BASE_WEIGHTS, adaptation_facts
from neurochorus.pretrain.adaptation.low_rank import LoraSection, merged, refuse_idle_targets
from neurochorus.pretrain.adaptation.modes import AdaptName, Mode
from neurochorus.pretrain.adaptation.old_rows import (
    State,
    free_old_rows,
    freeze_all_but_new_rows,
    restore_old_rows,
    state_of,
)
from neurochorus.pretrain.adaptation.refusals import refuse_known_sessions, refuse_other_recordings
from neurochorus.pretrain.adaptation.replay import ReplayedData, ReplaySection
from neurochorus.pretrain.adaptation.start_settings import StartSection
from neurochorus.pretrain.adaptation.starting import RowStart, start_rows
from neurochorus.pretrain.adaptation.unfreezing import UnfreezeSection
from neurochorus.pretrain.config import (
    CheckpointSection,
    DataSection,
    EvaluationSection,
    ForecastSection,
    RunConfig,
    RunSection,
    StageSection,
    TrainSection,
    WandbSection,
    WatchSection,
    ZeroSection,
)
from neurochorus.pretrain.distributed import Ranks
from neurochorus.pretrain.engine import deepspeed_settings
from neurochorus.pretrain.fingerprint import BASIS, run_fingerprint, weights_hash
from neurochorus.pretrain.pretraining import Trainer, resume_path, stages_of
from neurochorus.pretrain.run_directory import RunDirectory
from neurochorus.pretrain.stages import Stage, autoencoder_stage, dynamics_stage
from neurochorus.pretrain.stop_section import StopSection
from neurochorus.pretrain.stopping import StopRequest
from neurochorus.pretrain.training_data import TrainingData
from neurochorus.pretrain.watch import Watch
from neurochorus.pretrain.width_transfer import transfer_width


@settings
class FinetuneConfig:
    model: str
    """Model directory to start from."""
    run: RunSection
    data: DataSection
    """`data.window_bins` is that of the model's training unless given."""
    autoencoder: StageSection = StageSection(steps=600, learning_rate=5e-3)
    """Fitting of unit rows and session biases; with `adapt` of the encoder and decoder too."""
    dynamics: StageSection = StageSection(steps=200, learning_rate=5e-3)
    """Fitting of session and subject vectors; with `adapt` of the dynamics too."""
    passes: float | None = None
    """Most passes over the new sessions' train split in a stage, however many steps it has: little data are over-fitted
    early, and the learning rate should have fallen by then. null: no limit."""
    start: StartSection = StartSection()
    """Where new rows begin, and the prior that holds them."""
    adapt: AdaptName = "rows"
    """What moves besides the new rows: nothing (rows), low-rank updates (lora), the trunk layer after layer from its
    output downwards (unfreeze), or all of it (full)."""
    trunk_factor: float = 0.1
    """Learning rate of the trunk, or of its low-rank updates, as a share of that of the new rows."""
    read_in_factor: float = 1.0
    """Learning rate of the new read-in rows, as a share of that of the other new rows. There are many more of them than
    of read-outs and rates, and they begin aligned: with little data, 0.1 fits a new animal much better than 1."""
    lora: LoraSection = LoraSection()
    unfreeze: UnfreezeSection = UnfreezeSection()
    replay: ReplaySection | None = None
    """Old sessions to train on beside the new ones; null: none."""
    stop: StopSection | None = None
    """When a stage ends before its last step, by its loss on the new sessions' valid split; null: never."""
    train: TrainSection = TrainSection()
    zero: ZeroSection = ZeroSection(stage=0)
    checkpoint: CheckpointSection = CheckpointSection()
    wandb: WandbSection = WandbSection()
    watch: WatchSection = WatchSection()

    def problems(self) -> list[str]:
        found = []
        if self.run.init is not None:
            found.append("run.init: fine-tuning starts from the weights of `model`; set that")
        if self.passes is not None and not self.passes > 0:
            found.append(f"passes: expected null or a positive number, found {self.passes}")
        for name in ("trunk_factor", "read_in_factor"):
            if not getattr(self, name) > 0:
                found.append(f"{name}: expected a positive number, found {getattr(self, name)}")
        if self.replay is not None and self.adapt == "rows" and not self.replay.train_rows:
            found.append(
                "replay: with adapt rows nothing that old sessions read is trained: set replay to null, adapt to lora, "
                "unfreeze or full, or replay.train_rows to true"
            )
        return found

    @property
    def mode(self) -> Mode:
        return Mode(self.adapt, self.trunk_factor, self.lora, self.unfreeze, self.run.seed, self.read_in_factor)

    def further(self) -> dict[str, Any]:
        """Settings that a continued run must share with its checkpoints, beside those of a pretraining run."""
        replay = None if self.replay is None else settings_to_dict(self.replay)
        chosen: dict[str, Any] = {
            "start": settings_to_dict(self.start),
            "adapt": None if self.adapt == "rows" else {"mode": self.adapt, **self.mode.numbers()},
            "replay": replay and {name: value for name, value in replay.items() if name != "path"},
            "passes": self.passes,
            "read_in_factor": None if self.read_in_factor == 1 else self.read_in_factor,
            "stop": None if self.stop is None else settings_to_dict(self.stop),
        }
        return {name: value for name, value in chosen.items() if value is not None}


@dataclass(frozen=True)
class Prepared:
    """A model with rows for the new sessions, ready to be trained, and what is needed to put the old ones back."""

    model: NeuralModel
    run: RunConfig
    data: TrainingData
    mode: Mode
    old_state: State
    base_weights: str
    known: int
    """Sessions that the model knew before."""
    start: RowStart | None
    """What new rows began as; None where they are taken from another model."""

    def stage(self, name: str) -> Stage:
        """A part of the model as it is to be trained."""
        make = {"autoencoder": autoencoder_stage, "dynamics": dynamics_stage}[name]
        stage = make(self.model, self.run.train.precision)
        self.mode.apply(stage.trained, stage.name)
        return stage


def finetune(config: FinetuneConfig, ranks: Ranks) -> Path:
    """Add the sessions of `config.data` to the model and export it; returns the new model directory.

    Raises ValueError for sessions the model knows already, another modality or bin width. All ranks must call it.
    """
    prepared = prepare(config)
    model, run, data = prepared.model, prepared.run, prepared.data
    directory = RunDirectory(Path(config.run.dir))
    resume_path(run)
    fingerprints = {stage: run_fingerprint(run, data, stage, config.further()) for stage in stages_of(run)}
    if "autoencoder" in fingerprints:
        fingerprints["autoencoder"][BASIS] = prepared.base_weights
    directory.prepare(run, ranks, deepspeed_settings(run, ranks.world), fingerprints)
    ranks.barrier()
    watch = Watch(run, directory.path, ranks.first)
    stop = StopRequest(directory.path, run.train.max_hours, watch_file=ranks.first)
    trainer = Trainer(run, data, ranks, directory, stop, watch, config.stop, config.further())
    code = 1
    try:
        for line in data_warnings(run, data):
            watch.say(f"little data: {line}")
        for line in prepared.start.lines() if prepared.start else ():
            watch.say(line)
        trainer.say_who_lacks_covariates()
        with stop.signals():
            for name in ("autoencoder", "dynamics"):
                getattr(model, name).load_state_dict(_adapted(prepared, trainer, name))
        replay_rows = config.replay is not None and config.replay.train_rows
        trained = data.replayed if replay_rows and isinstance(data, ReplayedData) else []
        restore_old_rows(model, prepared.old_state, config.adapt == "rows", trained, prepared.known)
        if ranks.first:
            facts = adaptation_facts(
                config.model,
                prepared.base_weights,
                prepared.known,
                prepared.mode,
                run,
                data,
                trainer.endings,
                replay_rows,
            )
            base = {"base_model": read_training(config.model), "sessions_before": prepared.known}
            model.requires_grad_(True)
            model.autoencoder.row_prior = None
            if prepared.start is not None:
                base["start"] = prepared.start.facts()
            save(model, directory.export, trainer.facts(model, adapted=config.adapt, adaptation=facts, **base))
        ranks.barrier()
        code = 0
    finally:
        watch.close(code)
    return directory.export


def prepare(config: FinetuneConfig) -> Prepared:
    """Read the model and the data, refuse what does not fit, and give the new sessions their rows.

    Nothing is written. Raises ValueError as `finetune` does.
    """
    torch.manual_seed(config.run.seed)
    config = with_windows_of_the_model(config)
    model = load(config.model)
    run = _run_config(config, model)
    data = TrainingData.open(run)
    refuse_other_recordings(model, data)
    refuse_known_sessions(model, data)
    if config.passes is not None:
        run = _within_passes(run, config.passes, sum(windows_of(run, data).values()))
    if config.replay is not None:
        data = ReplayedData.beside(data, config.replay, model.registry, run.data.bin_s)
    if config.adapt == "lora":
        refuse_idle_targets(model, config.lora)
    old_state, base_weights, known = state_of(model), weights_hash(model), len(model.registry.sessions)
    start = _start(model, data, config)
    freeze_all_but_new_rows(model, old_state, keep=config.replay is not None)
    if config.replay is not None and config.replay.train_rows:
        free_old_rows(model)
    transfer_width(model, config.train.base_width, new=False)
    return Prepared(model, run, data, config.mode, old_state, base_weights, known, start)


def with_windows_of_the_model(config: FinetuneConfig) -> FinetuneConfig:
    """The settings with windows as long as in the model's training, where they say nothing of it."""
    if config.data.window_bins is not None:
        return config
    return replace(config, data=replace(config.data, window_bins=read_training(config.model).get("window_bins")))


def _within_passes(run: RunConfig, passes: float, windows: int) -> RunConfig:
    """The run with at most so many passes over `windows` train windows in each stage."""
    most = max(1, math.ceil(passes * windows / run.train.global_batch))
    return replace(
        run,
        autoencoder=replace(run.autoencoder, steps=min(run.autoencoder.steps, most)),
        dynamics=replace(run.dynamics, steps=min(run.dynamics.steps, most)),
    )


def _start(model: NeuralModel, data: TrainingData, config: FinetuneConfig) -> RowStart | None:
    """Give the new sessions the rows that they start with, and the prior of those rows."""
    if config.autoencoder.init is not None:  # fitted rows are there already
        model.append_sessions(data.entries)
        return None
    return start_rows(model, data, config.start, config.run.seed, config.data.window_bins)


def _adapted(prepared: Prepared, trainer: Trainer, name: str) -> Mapping[str, Tensor]:
    """Weights of a part of the model: trained, or fitted elsewhere."""
    section = getattr(prepared.run, name)
    if section.init is not None:
        return fitted_elsewhere(prepared, Path(section.init), name)
    stage = prepared.stage(name)
    # where new rows start is computed anew, on another kind of processor with other last bits; a checkpoint has them
    basis = prepared.base_weights if name == "autoencoder" else weights_hash(prepared.model)
    weights = trainer.train(stage, section, prepared.model.registry, basis)
    return merged(weights, prepared.mode.lora.alpha / prepared.mode.lora.rank)


def fitted_elsewhere(prepared: Prepared, path: Path, part: str) -> dict[str, Tensor]:
    """Weights of `part` from another export of the same sessions, whose part began as this model's did.

    Raises ValueError when its sessions, their order, or what it was fitted on differ.
    """
    model, other = prepared.model, load(path)
    if other.registry != model.registry:
        raise ValueError(
            f"{part}.init {path}: its sessions are not those of this model, in the same order; fit them here"
        )
    weights, own = getattr(other, part).state_dict(), getattr(model, part).state_dict()
    if prepared.mode.name != "rows":  # the trunk has moved, so that it cannot show where it came from
        began = read_training(path).get("adaptation", {}).get(BASE_WEIGHTS)
        if began != prepared.base_weights:
            raise ValueError(
                f"{part}.init {path}: it was fitted on another model than {prepared.base_weights}; fit it here"
            )
        return weights
    for name, value in own.items():
        old = prepared.old_state[f"{part}.{name}"]  # what has grown since, new rows and rates, is the fit's to say
        known = slice(len(old)) if old.ndim else ...
        if not torch.equal(weights[name][known], value[known]):
            raise ValueError(f"{part}.init {path}: '{name}' differs from the model's: it was fitted on another model")
    return weights


def _run_config(config: FinetuneConfig, model: NeuralModel) -> RunConfig:
    """The settings of the two fits as those of a run."""
    training = read_training(config.model)
    forecast, stop = training.get("forecast"), config.stop
    scored = EvaluationSection() if stop is None else EvaluationSection(every=stop.every, batches=stop.batches)
    return RunConfig(
        run=config.run,
        data=config.data,
        model=model.config,
        autoencoder=config.autoencoder,
        dynamics=config.dynamics,
        train=config.train,
        zero=config.zero,
        checkpoint=config.checkpoint,
        evaluation=scored,
        wandb=config.wandb,
        watch=config.watch,
        forecast=ForecastSection(**forecast) if forecast else ForecastSection(),
    )
