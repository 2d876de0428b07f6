"""Adding sessions that a model never saw: append their rows, fit them with everything else frozen, export again.

What is fitted: read-in and read-out rows, biases and gains of the new units, the bias of each new session
(stage 1, on signals), and the vectors of new sessions and subjects (stage 2, on latents). Rows of the
sessions that the model knew get no gradient and are put back bit for bit at the end.
"""

from pathlib import Path

import torch
from torch import Tensor, nn

from neurochorus.data_shards.settings import settings
from neurochorus.models import NeuralModel, load, read_training, save
from neurochorus.models.units import Table
from neurochorus.pretrain.config import (
    CheckpointSection,
    DataSection,
    ForecastSection,
    RunConfig,
    RunSection,
    StageSection,
    TrainSection,
    WandbSection,
    WatchSection,
    ZeroSection,
)
from neurochorus.pretrain.covariates import refuse_other_widths
from neurochorus.pretrain.distributed import Ranks
from neurochorus.pretrain.engine import deepspeed_settings
from neurochorus.pretrain.fingerprint import BASIS, run_fingerprint, weights_hash
from neurochorus.pretrain.pretraining import Trainer, resume_path, stages_of
from neurochorus.pretrain.run_directory import RunDirectory
from neurochorus.pretrain.stages import autoencoder_stage, dynamics_stage
from neurochorus.pretrain.stopping import StopRequest
from neurochorus.pretrain.training_data import TrainingData
from neurochorus.pretrain.watch import Watch


@settings
class FinetuneConfig:
    model: str
    """Model directory to start from."""
    run: RunSection
    data: DataSection
    autoencoder: StageSection = StageSection(steps=600, learning_rate=5e-3)
    """Fitting of unit rows and session biases."""
    dynamics: StageSection = StageSection(steps=200, learning_rate=5e-3)
    """Fitting of session and subject vectors."""
    train: TrainSection = TrainSection()
    zero: ZeroSection = ZeroSection(stage=0)
    checkpoint: CheckpointSection = CheckpointSection()
    wandb: WandbSection = WandbSection()
    watch: WatchSection = WatchSection()

    def problems(self) -> list[str]:
        return [] if self.run.init is None else ["run.init: fine-tuning starts from the weights of `model`; set that"]


def finetune(config: FinetuneConfig, ranks: Ranks) -> Path:
    """Add the sessions of `config.data` to the model and export it; returns the new model directory.

    Raises ValueError for sessions the model knows already, another modality or bin width. All ranks must call it.
    """
    torch.manual_seed(config.run.seed)
    model = load(config.model)
    run = _run_config(config, model)
    data = TrainingData.open(run)
    refuse_other_recordings(model, data)
    old_state = {name: value.clone() for name, value in model.state_dict().items()}
    known = len(model.registry.sessions)
    model.append_sessions(data.entries)
    freeze_all_but_new_rows(model, old_state)
    directory = RunDirectory(Path(config.run.dir))
    resume_path(run)
    fingerprints = {stage: run_fingerprint(run, data, stage) for stage in stages_of(run)}
    if "autoencoder" in fingerprints:
        fingerprints["autoencoder"][BASIS] = weights_hash(model)
    directory.prepare(run, ranks, deepspeed_settings(run, ranks.world), fingerprints)
    ranks.barrier()
    watch = Watch(run, directory.path, ranks.first)
    stop = StopRequest(directory.path, run.train.max_hours, watch_file=ranks.first)
    trainer = Trainer(run, data, ranks, directory, stop, watch)
    code = 1
    try:
        trainer.say_who_lacks_covariates()
        with stop.signals():
            for stage, section in ((autoencoder_stage, run.autoencoder), (dynamics_stage, run.dynamics)):
                trained = stage(model, run.train.precision)
                if section.init is None:
                    weights = trainer.train(trained, section, model.registry, (model,))
                else:
                    weights = fitted_elsewhere(model, Path(section.init), trained.name)
                getattr(model, trained.name).load_state_dict(weights)
        restore_old_rows(model, old_state)
        if ranks.first:
            facts = {"base_model": read_training(config.model), "sessions_before": known}
            save(model.requires_grad_(True), directory.export, trainer.facts(model, adapted="rows", **facts))
        ranks.barrier()
        code = 0
    finally:
        watch.close(code)
    return directory.export


def fitted_elsewhere(model: NeuralModel, path: Path, part: str) -> dict[str, Tensor]:
    """Weights of `part` from another export of the same sessions, whose part began as this model's did.

    Raises ValueError when its sessions, their order, or its weights outside the new rows differ.
    """
    other = load(path)
    if other.registry != model.registry:
        raise ValueError(
            f"{part}.init {path}: its sessions are not those of this model, in the same order; fit them here"
        )
    weights, own = getattr(other, part).state_dict(), getattr(model, part).state_dict()
    frozen = {f"{name}.weight": table.frozen_rows for name, table in _tables(getattr(model, part))}
    for name, value in own.items():
        rows = frozen.get(name)
        if not torch.equal(weights[name][:rows] if rows else weights[name], value[:rows] if rows else value):
            raise ValueError(f"{part}.init {path}: '{name}' differs from the model's: it was fitted on another model")
    return weights


def refuse_other_recordings(model: NeuralModel, data: TrainingData) -> None:
    """Raise ValueError when the new sessions differ from the model's in modality, bin width or columns of a covariate.

    They may lack a covariate: it is then missing to the model, whose covariates keep the scale they were trained on.
    """
    first = model.registry.sessions[0]
    for entry in data.entries:
        if (entry.modality, entry.bin_s) != (first.modality, first.bin_s):
            raise ValueError(
                f"session {entry.session_id!r}: {entry.modality} in bins of {entry.bin_s:g} s; the model was trained "
                f"on {first.modality} in bins of {first.bin_s:g} s: set data.bin_s to that, or use another "
                "model"
            )
    refuse_other_widths(data.entries, model.config.dynamics.covariate_columns)


def freeze_all_but_new_rows(model: NeuralModel, old_state: dict[str, Tensor]) -> None:
    """Leave gradients only to table rows that `old_state` does not have."""
    model.requires_grad_(False)
    for name, table in _tables(model):
        table.frozen_rows = len(old_state[f"{name}.weight"])
        # tables that got no new rows (a known subject's vector) stay frozen as a whole
        table.weight.requires_grad_(len(table.weight) > table.frozen_rows)


@torch.no_grad()
def restore_old_rows(model: NeuralModel, old_state: dict[str, Tensor]) -> None:
    """Put every value that the model had before back in its place, and let all of it be trained again."""
    for name, value in model.state_dict().items():
        old = old_state[name]
        value[: len(old)].copy_(old) if value.ndim else value.copy_(old)
    for _, table in _tables(model):
        table.frozen_rows = 0


def _tables(model: nn.Module) -> list[tuple[str, Table]]:
    return [(name, module) for name, module in model.named_modules() if isinstance(module, Table)]


def _run_config(config: FinetuneConfig, model: NeuralModel) -> RunConfig:
    """The settings of the two fits as those of a run."""
    training = read_training(config.model)
    forecast = training.get("forecast")
    return RunConfig(
        run=config.run,
        data=config.data,
        model=model.config,
        autoencoder=config.autoencoder,
        dynamics=config.dynamics,
        train=config.train,
        zero=config.zero,
        checkpoint=config.checkpoint,
        wandb=config.wandb,
        watch=config.watch,
        forecast=ForecastSection(**forecast) if forecast else ForecastSection(),
    )
