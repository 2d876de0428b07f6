"""Rows of the sessions that a model knew before: frozen while new ones are fitted, and put back bit for bit."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from neurochorus.data_shards.registry import UnitRegistry
from neurochorus.models import NeuralModel
from neurochorus.models.units import Table

State = dict[str, Tensor]
"""Values of a model before it was adapted, by their names in its state."""


def state_of(model: NeuralModel) -> State:
    return {name: value.clone() for name, value in model.state_dict().items()}


def freeze_all_but_new_rows(model: NeuralModel, old_state: State, keep: bool = False) -> None:
    """Leave gradients only to table rows that `old_state` does not have.

    `keep`: the old rows are read while the new ones are fitted, so that weight decay must not reach them.
    """
    model.requires_grad_(False)
    for name, table in tables_of(model):
        table.freeze(len(old_state[f"{name}.weight"]), keep)
        # tables that got no new rows (a known subject's vector) stay frozen as a whole
        table.weight.requires_grad_(len(table.weight) > table.frozen_rows)


def free_old_rows(model: NeuralModel) -> None:
    """Let all rows be trained."""
    for _, table in tables_of(model):
        table.freeze(0)
        table.weight.requires_grad_(True)


@torch.no_grad()
def restore_old_rows(
    model: NeuralModel, old_state: State, trunk: bool = True, trained: Iterable[str] = (), known: int = 0
) -> None:
    """Put what the model had before back in its place: old rows, with `trunk` everything; nothing stays frozen.

    `trained`: sessions among the first `known` of the registry whose rows were meant to change, and keep what they got.
    """
    tables, kept = dict(tables_of(model)), rows_by_table(model.registry, trained, known)
    for name, value in model.state_dict().items():
        table = tables.get(name.removesuffix(".weight"))
        if table is None and not trunk:
            continue
        old = old_state[name]
        if not value.ndim:
            value.copy_(old)
            continue
        changed = kept.get(_kind(name), []) if table is not None else []
        new_values = value[changed].clone()
        value[: len(old)].copy_(old)
        value[changed] = new_values
    for table in tables.values():
        table.freeze(0)


def rows_by_table(registry: UnitRegistry, sessions: Iterable[str], known: int) -> dict[str, list[int]]:
    """Rows that belong to some of the sessions, by the kind of table; of subjects those that were known before."""
    old_subjects = {session.subject_id for session in registry.sessions[:known]}
    rows: dict[str, list[int]] = {"unit": [], "session": [], "subject": []}
    for session_id in sessions:
        session = registry.session(session_id)
        rows["unit"] += session.row_of.values()
        rows["session"].append(registry.session_index(session_id))
        if session.subject_id in old_subjects:
            rows["subject"].append(registry.subject_index(session.subject_id))
    return rows


def tables_of(module: nn.Module) -> list[tuple[str, Table]]:
    return [(name, found) for name, found in module.named_modules() if isinstance(found, Table)]


def _kind(name: str) -> str:
    table = name.removesuffix(".weight").rpartition(".")[2]
    return {"session_bias": "session", "session_vectors": "session", "subject_vectors": "subject"}.get(table, "unit")
