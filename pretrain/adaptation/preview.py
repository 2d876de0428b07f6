"""What a fine-tuning would train, and on what: counted without a step and without a device."""

from dataclasses import dataclass

from neurochorus.data_shards.windows import WindowTable
from neurochorus.pretrain.adaptation.enough_data import data_warnings, minutes_of, windows_of
from neurochorus.pretrain.adaptation.old_rows import tables_of
from neurochorus.pretrain.adaptation.replay import ReplayedData
from neurochorus.pretrain.finetuning import FinetuneConfig, Prepared, prepare
from neurochorus.pretrain.optimizer import parameter_groups


@dataclass(frozen=True)
class Group:
    """Parameters that move alike."""

    name: str
    parameters: int
    """Numbers in them; of tables only those in rows that move."""
    factor: float
    """On the stage's learning rate."""
    begins: float
    """Share of the steps at which they begin to move."""


@dataclass(frozen=True)
class SessionData:
    session_id: str
    subject_id: str
    units: int
    train_windows: int
    train_minutes: float
    valid_windows: int


@dataclass(frozen=True)
class Preview:
    groups: dict[str, list[Group]]
    """Stage -> what moves in it; stages taken from elsewhere are left out."""
    steps: dict[str, int]
    """Stage -> steps, within the passes that are asked for."""
    frozen: dict[str, int]
    """Stage -> numbers that stay as they are."""
    sessions: list[SessionData]
    replayed: list[str]
    warnings: list[str]


def preview(config: FinetuneConfig) -> Preview:
    """Raises ValueError for what `finetune` would refuse."""
    prepared = prepare(config)
    run, data = prepared.run, prepared.data
    stages = [name for name in ("autoencoder", "dynamics") if getattr(run, name).init is None]
    counted = {name: _groups(prepared, name) for name in stages}
    windows, minutes = windows_of(run, data), minutes_of(run, data)
    valid = WindowTable(data.corpus, "valid", run.data.window_bins)
    return Preview(
        {name: groups for name, (groups, _) in counted.items()},
        {name: getattr(run, name).steps for name in stages},
        {name: frozen for name, (_, frozen) in counted.items()},
        [
            SessionData(
                entry.session_id,
                entry.subject_id,
                len(entry.units),
                windows[entry.session_id],
                minutes[entry.session_id],
                valid.count(entry.session_id),
            )
            for entry in data.entries
        ],
        data.replayed if isinstance(data, ReplayedData) else [],
        data_warnings(run, data),
    )


def _groups(prepared: Prepared, name: str) -> tuple[list[Group], int]:
    """What moves in a stage, and how many numbers do not."""
    part = prepared.stage(name).trained
    frozen_rows = {id(t.weight): t.frozen_rows * t.weight.shape[1] for _, t in tables_of(part)}
    groups = [
        Group(
            group["name"],
            sum(parameter.numel() - frozen_rows.get(id(parameter), 0) for parameter in group["params"]),
            group["factor"],
            group["begins"],
        )
        for group in parameter_groups(part, getattr(prepared.run, name), prepared.run.train.head_learning_rate_factor)
    ]
    whole = sum(parameter.numel() for parameter in part.parameters())
    return groups, whole - sum(group.parameters for group in groups)
